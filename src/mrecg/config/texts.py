"""Sizes, times and names, as people write and read them."""

import re

from mrecg.errors import StorageError, quoted

__all__ = ["bytes_of", "duration", "printable", "size"]


def bytes_of(text: str) -> int:
    """Return the bytes of a size such as `4GiB` or `1.5 MB`.

    Raises:
        StorageError: it cannot be read.
    """
    found = re.fullmatch(
        r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]?)(i)?B?", text.strip(), re.IGNORECASE
    )
    if found is None:
        raise StorageError(
            f"The memory budget {quoted(text)} cannot be read, expected a size such as 4GiB."
        )
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


def size(number: float) -> str:
    """Return bytes with a unit: `512 bytes`, `3.2 MiB`."""
    for unit, exponent in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number >= 2**exponent:
            return f"{number / 2**exponent:.1f} {unit}"
    return f"{number:.0f} bytes"


def duration(seconds: float) -> str:
    """Return a time with a unit: `12 seconds`, `3 minutes`, `4.5 hours`."""
    if seconds < 1.5:
        return "1 second"
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def printable(text: str) -> str:
    """Return a text with question marks for characters that could control a terminal: names in it may be a stranger's."""
    return "".join(one if one.isprintable() or one == "\n" else "?" for one in text)
