"""Codes of weights, and activations against their ranges: what the numbers look like."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mrecg.records.record import QuantizerRecord, ValuesRecord
from mrecg.report.drawing import ACCENT, FAINT, NAME_SIZE, SERIES, draw, room_for
from mrecg.report.parts import Chart, Section, Table
from mrecg.report.reported_run import ReportedRun
from mrecg.report.wording import counted, number, percent, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["numbers_section"]

_BESIDE = 8
"""Parts on either side of an activation's range, as the record has them."""
_MOST_ROWS = 100
_FEW_CODES = 16
"""Of no more codes each is a bar of its own."""
_CLIPPED = 0.05
"""Fraction of values outside of the range that is worth a warning."""
_UNKNOWN = "not recorded"


class _Row(NamedTuple):
    """A row of the chart: a layer with the codes of its weight, and the activation that it reads."""

    name: str
    weight: ValuesRecord | None
    activation: ValuesRecord | None


def numbers_section(run: ReportedRun, key: str) -> Section:
    """Return the section; `key` starts the ids in it."""
    question, quantizers = "What do the numbers look like?", run.record.quantizers
    rows = _rows(quantizers)
    table = _table(quantizers)
    if not rows:
        answer = "The codes and the activations of this run were not recorded."
        return Section(question, answer, tables=(table,))
    return Section(
        question,
        _answer(quantizers),
        charts=(_draw(rows[:_MOST_ROWS], f"{key}-numbers"),),
        tables=(table,),
        notes=_lost_channels(quantizers),
    )


def _known(quantizer: QuantizerRecord) -> ValuesRecord | None:
    """Return the values of a quantizer that can be drawn."""
    values = quantizer.values
    enough = 2 * _BESIDE if quantizer.kind == "activation" else 0
    if values is None or len(values.counts) <= enough or min(values.counts) < 0:
        return None
    return values if sum(values.counts) > 0 else None


def _rows(quantizers: Sequence[QuantizerRecord]) -> list[_Row]:
    """Return a row for each quantized layer, and one for each other activation."""
    activations = [one for one in quantizers if one.kind == "activation"]
    read_by = {reader: one for one in activations for reader in one.readers}
    rows, drawn = [], set()
    for weight in quantizers:
        if weight.kind == "weight":
            name = _label(weight)
            activation = read_by.get(name)
            if activation is not None:
                drawn.add(activation.name)
            rows.append(
                _Row(name, _known(weight), None if activation is None else _known(activation))
            )
    rows += [_Row(_label(one), None, _known(one)) for one in activations if one.name not in drawn]
    return [row for row in rows if row.weight or row.activation]


def _answer(quantizers: Sequence[QuantizerRecord]) -> str:
    found = [(one, values) for one in quantizers if (values := _known(one)) is not None]
    dead = sum(values.dead for _, values in found)
    saturated = sum(values.saturated for _, values in found)
    lost = (
        f"{counted(dead, 'channel')} became 0, and the mean of {saturated:,} is outside of the range"
        if dead or saturated
        else "No channel is lost: none became 0, and no mean is outside of its range"
    )
    clipped = [(_outside(values), one) for one, values in found if one.kind == "activation"]
    if not clipped:
        return f"{lost}."
    most, worst = max(clipped, key=lambda pair: pair[0])
    what = "Ranges cut off few values" if most <= _CLIPPED else "Some ranges cut off many values"
    return f"{lost}. {what}: at most {percent(most)}, of what {_label(worst)} reads."


def _lost_channels(quantizers: Sequence[QuantizerRecord]) -> tuple[str, ...]:
    """Return a line for each quantizer that loses channels, those that lose most first."""
    losing = [
        (one, values)
        for one in quantizers
        if (values := one.values) is not None and (values.dead or values.saturated)
    ]
    losing.sort(key=lambda pair: -(pair[1].dead + pair[1].saturated))
    lines = []
    for one, values in losing[:5]:
        what = "weight of" if one.kind == "weight" else "input of"
        dead = f"{values.dead} of {counted(values.channels, 'channel')} became 0"
        saturated = f"the mean of {values.saturated} of {values.channels} is outside of the range"
        parts = [
            said for count, said in ((values.dead, dead), (values.saturated, saturated)) if count
        ]
        lines.append(f"{what.capitalize()} {_label(one)}: {', and '.join(parts)}.")
    if len(losing) > 5:
        lines.append(
            f"{counted(len(losing) - 5, 'more quantizer')} with lost channels; see the table."
        )
    return tuple(lines)


def _outside(values: ValuesRecord) -> float:
    """Return the fraction of the values of an activation that its range cuts off."""
    return 1 - sum(values.counts[_BESIDE:-_BESIDE]) / sum(values.counts)


def _label(quantizer: QuantizerRecord) -> str:
    """Return the layer that a quantizer serves, or the tensor where no layer reads it."""
    return quantizer.readers[0] if quantizer.readers else quantizer.tensor


def _draw(rows: Sequence[_Row], name: str) -> Chart:
    """Return a row for each layer: how often each code is used, and where its input lies in its range."""
    labels = [shorten(row.name, 28) for row in rows]

    from matplotlib.collections import PolyCollection

    def paint(axes: Sequence["Axes"]) -> None:
        codes, values = axes
        values.axvspan(0, 1, color=FAINT, zorder=0)
        weights = [
            _outline_codes(place, row.weight.counts)
            for place, row in enumerate(rows)
            if row.weight is not None
        ]
        inputs = [
            _outline_values(place, row.activation.counts)
            for place, row in enumerate(rows)
            if row.activation is not None
        ]
        codes.add_collection(PolyCollection(weights, color=ACCENT, linewidth=0))
        values.add_collection(PolyCollection(inputs, color=SERIES[1], linewidth=0))
        codes.set_title("codes of the weight")
        codes.set_xlim(0, 1)
        codes.set_xticks([0, 1], ["lowest", "highest"])
        codes.get_xticklabels()[0].set_horizontalalignment("left")
        codes.get_xticklabels()[1].set_horizontalalignment("right")
        values.set_title("input, against its range")
        values.set_xlim(-0.26, 1.26)
        values.set_xticks([0, 1], ["lowest", "highest"])
        codes.set_yticks(range(len(rows)), labels, fontsize=NAME_SIZE, family="monospace")
        values.set_yticks([])
        for axis in axes:
            axis.set_ylim(len(rows) - 0.4, -0.6)
            axis.grid(visible=False)

    return draw(
        name,
        "Every layer: how often each code of its weight is used, and its input in float against the range that is quantized (shaded)",
        _description(rows),
        paint,
        heights=(0.18 * len(rows) + 0.1,),
        columns=2,
        below=0.28,
        left=room_for(labels, 28),
    )


def _description(rows: Sequence[_Row]) -> str:
    said = []
    for row in rows:
        if row.activation is not None:
            ends = f"{number(row.activation.low)} to {number(row.activation.high)}"
            said.append(f"{row.name}: range {ends}, {percent(_outside(row.activation))} outside")
    return "; ".join(said) or "Only the codes of weights were recorded."


def _outline_codes(row: int, counts: Sequence[int]) -> list[tuple[float, float]]:
    """Return the outline of how often codes are used: bars where there are few."""
    count, largest = len(counts), max(counts)
    gap = 0.12 / count if count <= _FEW_CODES else 0.0
    points = []
    for place, one in enumerate(counts):
        left, right = place / count + gap, (place + 1) / count - gap
        points += [(left, 0.0), (left, one / largest), (right, one / largest), (right, 0.0)]
    return _on_row(row, points)


def _outline_values(row: int, counts: Sequence[int]) -> list[tuple[float, float]]:
    """Return the outline of an activation's histogram; square roots keep rare values visible beside the many zeros."""
    inside, largest = len(counts) - 2 * _BESIDE, max(counts)
    points = []
    for place, one in enumerate(counts, start=-_BESIDE):
        height = math.sqrt(one / largest)
        points += [(place / inside, height), ((place + 1) / inside, height)]
    return _on_row(row, [(points[0][0], 0.0), *points, (points[-1][0], 0.0)])


def _on_row(row: int, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return an outline of heights from 0 to 1 on the base of a row; rows count downwards."""
    return [(x, row + 0.42 - 0.82 * height) for x, height in points]


def _table(quantizers: Sequence[QuantizerRecord]) -> Table:
    columns = (
        "layer",
        "of",
        "codes",
        "scale",
        "range",
        "outside",
        "channels that became 0",
        "mean outside",
    )
    return Table("Every quantizer", columns, tuple(map(_cells, quantizers)))


def _cells(one: QuantizerRecord) -> tuple[str, ...]:
    scales = " to ".join(dict.fromkeys(map(number, one.scales)))
    cells = (_label(one), one.kind, f"{one.low} to {one.high}", scales)
    values, known = one.values, _known(one)
    if values is None:
        return (*cells, _UNKNOWN, "", "", "")
    dead = f"{values.dead} of {values.channels}"
    if one.kind == "weight":
        return (*cells, "", "", dead, "")
    outside = percent(_outside(known)) if known is not None else ""
    span = f"{number(values.low)} to {number(values.high)}"
    return (*cells, span, outside, dead, str(values.saturated))
