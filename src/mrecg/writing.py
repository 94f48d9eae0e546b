"""Files that are written whole or not at all: whatever kills the process, the old contents or the new are there."""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from mrecg.errors import MrecgError, RunError, reason_of

__all__ = [
    "DRAFTS",
    "replace_file",
    "require_new_file",
    "require_writable",
    "whole_file",
    "write_file",
]

DRAFTS = ".mrecg-*.draft"
"""Names of files that are being written; a process that is killed leaves one."""


def _draft_of(path: Path) -> Path:
    return path.with_name(DRAFTS.replace("*", secrets.token_hex(8)))


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the name of a new file beside `path`, which takes its place when the context ends well.

    The contents are on the disk before the name is. A link at `path` is replaced, never followed. The new file disappears
    if anything fails.

    Raises:
        OSError: it cannot be written.
    """
    draft = _draft_of(path)
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        # What cannot be removed either must not hide why.
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def replace_file(path: Path, contents: bytes) -> None:
    """Write a file, in the place of an older one if there is one.

    Raises:
        OSError: it cannot be written.
    """
    with whole_file(path) as draft, draft.open("xb") as file:
        file.write(contents)


def write_file(path: Path, contents: bytes, error: type[MrecgError]) -> None:
    """Write a file as `replace_file` does; a failure becomes one sentence.

    Raises:
        error: it cannot be written, or something is there that is no file.
    """
    with _explained(path, error):
        _refuse_no_file(path, error)
        replace_file(path, contents)


def require_writable(path: Path, error: type[MrecgError]) -> None:
    """Make the folders above a file, and refuse one that `write_file` could not write; ask before the work, not after.

    Raises:
        error: naming it.
    """
    with _explained(path, error):
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_no_file(path, error)
        draft = _draft_of(path)
        draft.touch(exist_ok=False)
        draft.unlink()


def require_new_file(path: Path) -> None:
    """Refuse a file that exists or that could not be written; ask before the work, not after.

    Raises:
        RunError: naming it.
    """
    if os.path.lexists(path):
        raise RunError(f"The file {path} already exists; name another or remove it.")
    require_writable(path, RunError)


def _refuse_no_file(path: Path, error: type[MrecgError]) -> None:
    """Refuse to put a file in the place of a folder, a pipe or a device."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise error(f"The path {path} is no file, so no file can replace it; name another.")


@contextlib.contextmanager
def _explained(path: Path, error: type[MrecgError]) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as reason:  # a path with a null character is a ValueError
        raise error(f"The file {path} cannot be written: {reason_of(reason)}.") from reason


def _sync_folder(folder: Path) -> None:
    """Put a new name on the disk, where the system can do so for a folder; the file is whole either way."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
