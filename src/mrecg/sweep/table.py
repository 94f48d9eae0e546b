"""The table of a grid: a row per cell, empty where nothing is finished yet."""

from collections.abc import Mapping, Sequence
from typing import Any

from mrecg.records.record import Record
from mrecg.sweep.grid import GridCell

__all__ = ["as_markdown_table", "table_lines", "table_rows"]

_FOUND = ("float top-1", "top-1", "last loss", "bytes", "seconds")


def table_rows(
    cells: Sequence[GridCell], records: Mapping[str, Record], failed: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return for each cell its place, its status and what its run found, for a script.

    Args:
        cells: of the grid.
        records: of the finished ones, by name.
        failed: reasons, by name.
    """
    rows = []
    for cell in cells:
        record = records.get(cell.name)
        status = "done" if record else "failed" if cell.name in failed else "open"
        row: dict[str, Any] = {"cell": cell.name, **cell.place, "status": status}
        if record is not None:
            row |= _findings(record)
        if cell.name in failed:
            row["reason"] = failed[cell.name]
        rows.append(row)
    return rows


def _findings(record: Record) -> dict[str, Any]:
    accuracy = record.accuracy
    return {
        "float top-1": accuracy["float"].top1 if accuracy else None,
        "top-1": accuracy["quantized"].top1 if accuracy else None,
        "last loss": record.units[-1].relative_loss,
        "bytes": record.size.quantized_bytes if record.size else None,
        "seconds": sum(record.seconds.values()),
    }


def table_lines(cells: Sequence[GridCell], rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the table as text, its heads first."""
    axes = list(cells[0].place)
    heads = [*axes, "status", *_FOUND]
    return [heads, *([_text(name, row.get(name)) for name in heads] for row in rows)]


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name.endswith("top-1"):
        return f"{value:.2f}"
    if name == "last loss":
        return f"{100 * value:.3g} %"
    return f"{value:.0f}" if name == "seconds" else str(value)


def as_markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Format a table for a document."""
    heads, *others = lines
    rule = ("---",) * len(heads)
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, rule, *others))
