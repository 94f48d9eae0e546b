"""The folder of one run, reserved before the work starts and written last.

Until the run is finished, its folder holds `.unfinished` and nothing else; afterwards `.unfinished` is gone.
"""

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from mrecg import distributed
from mrecg.errors import RunError, reason_of
from mrecg.runs.checkpoints import INPUTS, FolderCheckpoints
from mrecg.runs.files import GRAPH, RECIPE, RECORD, REPORT, TENSORS, is_finished, read_file
from mrecg.writing import DRAFTS, replace_file

__all__ = ["RunPlace", "check_free", "check_unfinished", "reserve"]

UNFINISHED = ".unfinished"
_LOCK = "lock"


@dataclass(frozen=True)
class RunPlace:
    """A folder that this process may write one run into.

    Attributes:
        folder: of the run.
    """

    folder: Path

    @property
    def unfinished(self) -> Path:
        """Return where an unfinished run keeps its files."""
        return self.folder / UNFINISHED

    @property
    def is_started(self) -> bool:
        """Return whether it holds an unfinished run that can be resumed."""
        return self.has_note(INPUTS)

    def checkpoints(self, inputs: Mapping[str, str]) -> FolderCheckpoints:
        """Return what keeps the progress of a run that was started with some inputs; see `describe_inputs`.

        Raises:
            RunError: the run that is there was started with others.
        """
        return FolderCheckpoints(self.unfinished, inputs)

    def note(self, name: str, contents: bytes) -> None:
        """Keep a file beside the checkpoints, in the place of an older one.

        Raises:
            RunError: it cannot be written.
        """
        self._write(self.unfinished / name, contents)

    def has_note(self, name: str) -> bool:
        """Return whether `note` kept such a file."""
        return (self.unfinished / name).exists()

    def read_note(self, name: str) -> bytes:
        """Return the contents of a file that `note` kept.

        Raises:
            RunError: there is none, or it cannot be read.
        """
        return read_file(self.unfinished / name)

    def finish(self, contents: Mapping[str, bytes]) -> None:
        """Write the files of the finished run, the record last, and remove what belongs to an unfinished one.

        Raises:
            RunError: a file cannot be written; what was kept so far stays.
        """
        paths = [self.folder / name for name in sorted(contents, key=lambda name: name == RECORD)]
        try:
            for path in paths:
                self._write(path, contents[path.name])
        except BaseException:
            _remove(paths)
            raise
        self.clear()

    def clear(self) -> None:
        """Remove what an unfinished run keeps."""
        _remove([path for path in self.unfinished.iterdir() if path.name != _LOCK])

    def _write(self, path: Path, contents: bytes) -> None:
        try:
            replace_file(path, contents)
        except OSError as error:
            raise RunError(f"The file {path} cannot be written: {reason_of(error)}.") from error


def _remove(paths: Iterable[Path]) -> None:
    """Remove files and folders, as far as the system lets us: what they belonged to is over."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def reserve(folder: Path, resume: bool = False, together: bool = False) -> Iterator[RunPlace]:
    """Keep a folder for one run, and other processes out of it, until the context ends.

    The folder may exist: empty, a mount point, a link to an empty folder. What keeps nothing for a resumption is removed at
    the end, the folder included if it was made here.

    Args:
        folder: of the run.
        resume: whether it holds an unfinished run that goes on; else it must hold nothing.
        together: whether all processes that share a run call this; then the first holds the lock, and the others wait for it.

    Raises:
        RunError: the folder holds something else, cannot be written, or another process writes there.
    """
    check = check_unfinished if resume else check_free
    check(folder)
    place = RunPlace(folder)
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    if together and not distributed.is_first():
        distributed.wait()
        yield place
        return
    lock = _lock(place)
    try:
        check(folder)  # nobody finished it meanwhile
        if not resume:
            place.clear()  # of a run that stopped before it could be resumed
        _remove(_left_over(folder) - {place.unfinished})
        if together:
            distributed.wait()
        yield place
    finally:
        _tidy(place, made)  # while the folder is ours
        lock.release()


def _lock(place: RunPlace) -> FileLock:
    """Take the lock; the system frees it when the process ends, however that is."""
    lock = FileLock(place.unfinished / _LOCK, timeout=0)
    try:
        place.unfinished.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"Another process writes the run in {place.folder}; wait for it, or name another folder."
        ) from error
    except OSError as error:
        raise RunError(
            f"The run folder {place.folder} cannot be written: {reason_of(error)}."
        ) from error
    return lock


def _tidy(place: RunPlace, made: Sequence[Path]) -> None:
    """Remove what is of no use: the place of an unfinished run that keeps nothing, and folders made for nothing."""
    if not place.is_started:
        shutil.rmtree(place.unfinished, ignore_errors=True)
        with contextlib.suppress(OSError):  # something is in one of them
            for folder in made:
                folder.rmdir()


def check_free(folder: Path) -> None:
    """Refuse a folder that a new run must not be written to.

    Raises:
        RunError: it holds a run, finished or not, or other files, or is a file.
    """
    if is_finished(folder):
        raise RunError(
            f"The folder {folder} already holds a finished run; name another or remove it."
        )
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        raise RunError(f"The path {folder} is a file, expected a folder for the run.")
    _refuse_link(folder)
    if RunPlace(folder).is_started:
        raise RunError(
            f"The folder {folder} holds an unfinished run; go on with --resume {folder}, or remove the folder."
        )
    if folder.is_dir() and set(folder.iterdir()) - _left_over(folder):
        raise RunError(f"The folder {folder} is not empty; name another for the run.")


def check_unfinished(folder: Path) -> None:
    """Refuse a folder in which nothing can be resumed.

    Raises:
        RunError: the run there is finished, or there is none.
    """
    if is_finished(folder):
        raise RunError(f"The run in {folder} is finished; there is nothing to resume.")
    _refuse_link(folder)
    if not RunPlace(folder).is_started:
        raise RunError(f"The folder {folder} holds no unfinished run; name one that does.")


def _refuse_link(folder: Path) -> None:
    """Refuse a link in the place of our own folder: its files are removed in the end."""
    place = folder / UNFINISHED
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise RunError(
            f"The path {place} is no folder of mrecg's; name another folder for the run."
        )


def _left_over(folder: Path) -> set[Path]:
    """Return what a process leaves that is killed while it writes a file: our own folder, drafts, files of the finished run."""
    place = folder / UNFINISHED
    if not place.exists():
        return set()
    names = (RECIPE, TENSORS, GRAPH, REPORT)
    drafts = (*folder.glob(DRAFTS), *place.rglob(DRAFTS))
    return {place, *(folder / name for name in names), *drafts}
