"""Disks that fail: at the n-th operation on a file, or after so many bytes."""

import contextlib
import errno
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_OPERATIONS = ("open", "fsync", "replace", "mkdir")


class _Half:
    """A file of which a write keeps one half, and then fails."""

    def __init__(self, file: Any, tick: Callable[[str], bool]) -> None:
        self._file, self._tick = file, tick

    def write(self, contents: Any) -> int:
        if self._tick("short write"):
            self._file.write(bytes(contents)[: len(contents) // 2])
            self._file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self._file.write(contents))

    def __enter__(self) -> "_Half":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextlib.contextmanager
def failing_at(number: int, below: Path) -> Iterator[Callable[[], str | None]]:
    """Let the `number`-th writing operation on what is below a folder fail; give back its name, if it did."""
    seen: list[str] = []

    def tick(name: str) -> bool:
        seen.append(name)
        return len(seen) == number + 1

    def is_ours(target: object) -> bool:
        return isinstance(target, int) or str(target).startswith(str(below))

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *arguments: Any, **named: Any) -> Any:
            reads = function is opens and not arguments[0] & (os.O_WRONLY | os.O_RDWR)
            if is_ours(target) and not reads and tick(function.__name__):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            return function(target, *arguments, **named)

        return call

    opened, opens = io.open, os.open

    def opening(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        writes = set(mode) & set("wax+")
        if not (writes and isinstance(file, str | Path) and is_ours(file)):
            return opened(file, mode, *arguments, **named)
        if tick("open"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        return _Half(opened(file, mode, *arguments, **named), tick)

    with pytest.MonkeyPatch.context() as patch:
        for name in _OPERATIONS:
            patch.setattr(os, name, wrapped(getattr(os, name)))
        patch.setattr(io, "open", opening)
        yield lambda: seen[number] if len(seen) > number else None


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system cut every write off at a size, as a full disk does; code in C sees it, too."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
