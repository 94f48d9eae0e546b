"""Result files in, tables of a document out."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["Result", "load", "table"]

Result = dict[str, Any]


def load(folder: Path, kind: str = "") -> list[Result]:
    """The results in a folder whose files' names begin with `kind`, by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{kind}*.json"))]


def table(columns: str, rows: Iterable[Iterable[object]]) -> list[str]:
    """The lines of a table; `columns` are separated by bars."""
    names = [name.strip() for name in columns.split("|")]
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (names, *rows)]
    return [lines[0], "|" + "---|" * len(names), *lines[1:]]
