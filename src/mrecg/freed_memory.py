"""Keep the memory that a CPU's tensors free for those that come next.

glibc returns what is freed to the system at once if it is a block of more than 32 MiB, or the end of what it holds. A step at 224²
frees a gigabyte and needs it again in the next one; until then the kernel has cleared every page (docs/performance.md has what that costs).
"""

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Iterator

__all__ = ["freed_memory_kept"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of `mallopt`, from malloc.h."""
_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
"""No block of its own for a large tensor, and nothing returned."""
_RETURNED = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}
"""What glibc comes to by itself once blocks of 32 MiB were freed; its rule cannot be switched on again."""


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let the process keep freed memory until the body ends, and return it then.

    Does nothing where the allocator is not glibc's, or where the user has set it up (`MALLOC_…` or `GLIBC_TUNABLES` in the
    environment). The allocator belongs to the process: of two bodies at once, the first one that ends returns what is free.
    """
    glibc = None if _is_set_up() else _glibc()
    if glibc is None:
        yield
        return
    _set(glibc, _KEPT)
    try:
        yield
    finally:
        _set(glibc, _RETURNED)
        glibc.malloc_trim(0)


def _set(glibc: ctypes.CDLL, parameters: dict[int, int]) -> None:
    for name, value in parameters.items():
        glibc.mallopt(name, value)


def _is_set_up() -> bool:
    return any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """Return the C library if it is glibc: others have no `mallopt`, or one that does nothing."""
    if sys.platform != "linux":
        return None
    process = ctypes.CDLL(None)
    return process if hasattr(process, "gnu_get_libc_version") else None
