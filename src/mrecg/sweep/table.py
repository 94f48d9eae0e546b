"""The table of a grid: a row per cell, empty where nothing is finished yet."""

from collections.abc import Mapping, Sequence
from typing import Any

from mrecg.config.texts import duration, size
from mrecg.records.record import Record
from mrecg.sweep.grid import GridCell

__all__ = ["as_markdown_table", "table_lines", "table_rows"]

_FOUND = ("float", "top-1", "loss", "size", "time")


def table_rows(
    cells: Sequence[GridCell], records: Mapping[str, Record], failed: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return for each cell its place, its status and what its run found, for a script: top-1 in percent, the loss of the last unit
    as a fraction of the signal's power, bytes of the parameters, seconds.

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
        "float": accuracy["float"].top1 if accuracy else None,
        "top-1": accuracy["quantized"].top1 if accuracy else None,
        "loss": record.units[-1].relative_loss,
        "size": record.size.quantized_bytes if record.size else None,
        "time": sum(record.seconds.values()),
    }


def table_lines(cells: Sequence[GridCell], rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the table as text, its heads first."""
    axes = list(cells[0].place)
    heads = [*axes, "status", *_FOUND]
    return [heads, *([_text(name, row.get(name)) for name in heads] for row in rows)]


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    as_text = {
        "float": "{:.2f}".format,
        "top-1": "{:.2f}".format,
        "loss": lambda part: f"{100 * part:.3g} %",
        "size": size,
        "time": duration,
    }
    return str(as_text[name](value)) if name in _FOUND else str(value)


def as_markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Format a table for a document."""
    heads, *others = lines
    rule = ("---",) * len(heads)
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, rule, *others))
