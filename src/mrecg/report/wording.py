"""Numbers and names as people read them."""

import math
from collections.abc import Sequence

__all__ = [
    "bytes_as_text",
    "counted",
    "decibels",
    "listed",
    "number",
    "percent",
    "seconds_as_text",
    "shorten",
    "signed",
]


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits."""
    return f"{value:.{digits}g}"


def percent(fraction: float) -> str:
    """Return a fraction in percent, small ones with more digits."""
    value = 100 * fraction
    return f"{value:.1f} %" if not abs(value) < 0.1 or value == 0 else f"{value:.2g} %"


def signed(points: float) -> str:
    """Return a difference of percentages, with its sign."""
    return f"{points:+.2f}".replace("-", "−")


def decibels(relative_loss: float) -> float:
    """Return the ratio of signal to noise, from the noise as a fraction of the signal."""
    if math.isnan(relative_loss):
        return math.nan
    return -10 * math.log10(relative_loss) if relative_loss > 0 else math.inf


def bytes_as_text(size: int) -> str:
    """Return a size in the unit that suits it."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"


def seconds_as_text(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    if seconds < 1e-3:
        return f"{1e6 * seconds:.0f} µs"
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def counted(count: int, thing: str, plural: str | None = None) -> str:
    """Return a number of things, such as `1 group` or `3 groups`."""
    return f"{count:,} {thing if count == 1 else plural or thing + 's'}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return names one after the other, and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown


def shorten(name: str, most: int = 26) -> str:
    """Return a name that fits a chart: its middle left out, and what no font shows replaced."""
    clean = "".join(letter if letter.isprintable() else "�" for letter in name)
    if len(clean) <= most:
        return clean
    end = most // 2
    return f"{clean[: most - end - 1]}…{clean[-end:]}"
