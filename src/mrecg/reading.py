"""Files that a user names, read with care: a pipe would be waited for, and a device never ends."""

import errno
import os
import stat
from pathlib import Path

__all__ = ["read_regular", "require_regular"]


def require_regular(path: Path) -> None:
    """Refuse a path that leads to no regular file.

    Raises:
        OSError: it cannot be looked at, or is a folder, a pipe or a device.
        ValueError: the path holds a null character.
    """
    _check(path.stat().st_mode)


def read_regular(path: Path, limit: int | None = None) -> bytes:
    """Return the contents of a regular file, up to `limit` bytes.

    Raises:
        OSError: it cannot be read, or is a folder, a pipe or a device.
        ValueError: the path holds a null character.
    """
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    require_regular(path)  # opening a device may already do something
    with os.fdopen(os.open(path, os.O_RDONLY | flags), "rb") as file:
        _check(os.fstat(file.fileno()).st_mode)
        return file.read(-1 if limit is None else limit)


def _check(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "It is not a regular file")
