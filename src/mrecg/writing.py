"""Files that are written whole or not at all: whatever kills the process, the old contents or the new are there."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

__all__ = ["replace_file", "whole_file"]


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the name of a new file beside `path`, which takes its place when the context ends well.

    The contents are on the disk before the name is. A link at `path` is replaced, never followed. The new file disappears
    if anything fails.

    Raises:
        OSError: it cannot be written.
    """
    draft = path.with_name(f".{path.name[:80]}.{secrets.token_hex(8)}.draft")
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
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


def _sync_folder(folder: Path) -> None:
    """Put a new name on the disk, where the system can do so for a folder."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
