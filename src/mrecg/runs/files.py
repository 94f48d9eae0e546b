"""The files of a run folder, read with care: regular, of bounded size, with the contents that the record names."""

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from mrecg.errors import RunError
from mrecg.records.record import Record

__all__ = [
    "GRAPH",
    "RECIPE",
    "RECORD",
    "TENSORS",
    "checked_record",
    "read_file",
    "require_files",
    "require_small",
    "with_hashes",
]

RECIPE, RECORD, TENSORS, GRAPH = "recipe.yaml", "record.json", "model.safetensors", "graph.json"
_FILES = (RECIPE, RECORD, TENSORS, GRAPH)
_FORMER_GRAPH = "graph.pt2"
_LIMIT = 1 << 25
"""Bytes of a text file; 5,000 operators take one megabyte."""


def require_files(folder: Path) -> None:
    """Refuse a folder that is no run.

    Raises:
        RunError: naming the files that are missing.
    """
    missing = [name for name in _FILES if not os.path.lexists(folder / name)]
    if missing == [GRAPH] and (folder / _FORMER_GRAPH).exists():
        raise RunError(
            f"The run in {folder} was written by an earlier version of mrecg: its {_FORMER_GRAPH} is not opened, because "
            f"opening it may execute code; quantize again with its {RECIPE}."
        )
    if missing:
        raise RunError(f"The folder {folder} holds no run: {', '.join(missing)} is missing.")


def read_file(path: Path, sha256: str | None = None, limit: int = _LIMIT) -> bytes:
    """Return the contents of a regular file.

    Args:
        path: the file; links, pipes and devices are refused.
        sha256: of its contents, in hexadecimal, if known.
        limit: in bytes, of what is read.

    Raises:
        RunError: it cannot be read, is larger, or holds something else.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        # A link may lead out of the folder, and a pipe or device never ends.
        if not stat.S_ISREG(path.lstat().st_mode):
            raise RunError(f"The file {path} is not a regular file; put the file itself there.")
        with os.fdopen(os.open(path, flags | getattr(os, "O_BINARY", 0)), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            contents = file.read(size) if size <= limit else b""
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or "it does not fit in memory"
        raise RunError(f"The file {path} cannot be read: {reason}.") from error
    if size > limit:
        raise RunError(f"The file {path} is damaged: it has more than {limit:,} bytes.")
    if sha256 is not None and hashlib.sha256(contents).hexdigest() != sha256:
        raise RunError(
            f"The file {path} is not what {RECORD} says was written: its SHA-256 differs; "
            "copy the run again, or quantize again."
        )
    return contents


def require_small(contents: Mapping[str, bytes]) -> None:
    """Refuse to write text files that `read_file` would not read.

    Raises:
        RunError: naming the first one.
    """
    for name, text in contents.items():
        if len(text) > _LIMIT:
            raise RunError(
                f"The model cannot be stored in a run: its {name} would have {len(text):,} bytes, "
                f"expected at most {_LIMIT:,}."
            )


def with_hashes(record: Record, contents: dict[str, bytes]) -> Record:
    """Return the record with the SHA-256 of the other files, and of what the record itself says."""
    files = {name: hashlib.sha256(contents[name]).hexdigest() for name in sorted(contents)}
    draft = record.model_copy(update={"files": files})
    own = hashlib.sha256(draft.to_json().encode()).hexdigest()
    return draft.model_copy(update={"files": files | {RECORD: own}})


def checked_record(folder: Path) -> Record:
    """Return the record of a run, as it was written.

    Raises:
        RunError: it cannot be read, or was changed.
    """
    path = folder / RECORD
    record = Record.parse(read_file(path), path)
    others = {name: value for name, value in record.files.items() if name != RECORD}
    if set(record.files) != set(_FILES):
        raise RunError(
            f"The file {path} is damaged: it names the contents of {', '.join(sorted(others)) or 'no file'}, "
            f"expected those of {', '.join(_FILES)}."
        )
    # Fields that a later version added are not in an older record.
    said = record.model_copy(update={"files": others}).given_as_json()
    if hashlib.sha256(said.encode()).hexdigest() != record.files[RECORD]:
        raise RunError(f"The file {path} was changed after the run was written; copy it again.")
    return record
