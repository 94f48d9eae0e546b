"""The tables of `docs/reliability.md`."""

from pathlib import Path


def write_reliability(folder: Path, page: Path) -> int:
    return 0
