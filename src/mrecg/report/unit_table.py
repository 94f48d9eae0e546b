"""The units of a run as a table: of pandas where that is installed."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from mrecg.records.record import Record
from mrecg.report.page import render
from mrecg.report.parts import Table
from mrecg.report.wording import decibels, number, percent

__all__ = ["UnitRow", "UnitTable", "table_of_units", "units_as_table"]


class UnitRow(NamedTuple):
    """One unit.

    Attributes:
        unit: its name.
        group: the index of its group.
        is_end: a group ends with it, so that its loss is compared with the float network.
        layers: how many.
        parameters: elements of their weights.
        bits: the smallest width of their weights.
        relative_loss: as a fraction of the signal's power.
        snr: the same in decibels.
        loss, nearest_loss: absolute, and with its group rounded to nearest.
    """

    unit: str
    group: int
    is_end: bool
    layers: int
    parameters: int
    bits: int
    relative_loss: float
    snr: float
    loss: float
    nearest_loss: float


class UnitTable(tuple[UnitRow, ...]):
    """Rows that show themselves as a table."""

    __slots__ = ()

    def __repr__(self) -> str:
        table = table_of_units(self)
        columns = [table.columns, *table.rows]
        widths = [max(map(len, column)) for column in zip(*columns, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if place == 0 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in columns
        )

    def _repr_html_(self) -> str:
        return render("table.html", table=table_of_units(self))


def units_as_table(record: Record) -> Any:
    """Return a `pandas.DataFrame` with the fields of `UnitRow`, indexed by unit; without pandas a `UnitTable`."""
    rows = _rows(record)
    try:
        import pandas
    except ImportError:
        return UnitTable(rows)
    return pandas.DataFrame(rows, columns=UnitRow._fields).set_index("unit")


def _rows(record: Record) -> list[UnitRow]:
    ends = {group.units[-1] for group in record.groups}
    return [
        UnitRow(
            unit=unit.name,
            group=unit.group,
            is_end=unit.name in ends,
            layers=len(unit.layers),
            parameters=sum(layer.parameters for layer in unit.layers),
            bits=min((layer.bits for layer in unit.layers), default=0),
            relative_loss=unit.relative_loss,
            snr=decibels(unit.relative_loss),
            loss=unit.loss,
            nearest_loss=unit.nearest_loss,
        )
        for unit in record.units
    ]


def table_of_units(rows: Sequence[UnitRow]) -> Table:
    """Return what of the rows fits a narrow table."""
    cells = tuple(
        (
            row.unit,
            str(row.group + 1),
            f"{row.parameters:,}",
            str(row.bits or ""),
            percent(row.relative_loss) if row.is_end else "",
            f"{row.snr:.1f}" if row.is_end else "",
            number(row.nearest_loss),
        )
        for row in rows
    )
    columns = ("unit", "group", "parameters", "bits", "loss", "SNR, dB", "loss, nearest")
    return Table("Units; the loss where their groups end", columns, cells)
