"""Did it work? Accuracy, size and speed, before and after."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mrecg.records.accuracy_difference import AccuracyDifference
from mrecg.records.evaluation import Evaluation
from mrecg.report.drawing import ACCENT, BAD, GRID, draw, room_for
from mrecg.report.parts import Chart, Figure, Section, Table
from mrecg.report.reported_run import ReportedRun
from mrecg.report.wording import bytes_as_text, counted, percent, seconds_as_text, shorten, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["describe_difference", "draw_differences", "verdict_section"]

_UNKNOWN = "not recorded"
_SMALL = 1.0
"""Points of top-1 that count as kept."""


def verdict_section(run: ReportedRun, key: str) -> Section:
    """Return the section; `key` starts the ids in it."""
    before, after = run.before, run.after
    if before is None or after is None:
        last = run.record.units[-1]
        answer = (
            "The accuracy of this run was not recorded. Behind the last unit, the quantized network differs from the float "
            f"network by {percent(last.relative_loss)} of the signal's power."
        )
        answer += _training(run)
        return Section("Did it work?", answer, _figures(run, None), tables=(_table(run),))
    difference = AccuracyDifference.between(before, after)
    chart = draw_differences(f"{key}-difference", [("quantized", difference)], "float")
    return Section(
        "Did it work?",
        describe_difference(before, after, difference) + _training(run),
        _figures(run, difference),
        (chart,),
        (_table(run),),
    )


def _training(run: ReportedRun) -> str:
    """Return a sentence about training after the run, where there was some."""
    training = run.record.training
    if training is None:
        return ""
    changed = percent(training.changed / training.codes)
    return (
        f" The model was trained further after its reconstruction, which changed {changed} of the codes; units, groups "
        "and losses below are those before."
    )


def describe_difference(
    before: Evaluation, after: Evaluation, difference: AccuracyDifference
) -> str:
    """Return what quantization did to the accuracy, in a sentence."""
    interval = f"95 % confidence interval {signed(difference.low)} to {signed(difference.high)}"
    images = f"{after.count:,} images"
    source = (
        f"from the answers to the same {images}"
        if difference.source == "answers"
        else f"from the counts of right answers among {images} alone, which makes it wider than it has to be"
    )
    figures = f"top-1 is {after.top1:.2f} %, float {before.top1:.2f} %: {signed(difference.points)} points ({interval}, {source})"
    if not difference.is_certain and difference.low > -_SMALL:
        return f"Yes, no loss of accuracy can be seen: {figures}."
    if not difference.is_certain:
        return f"Probably, but these images are too few to tell: {figures}."
    if difference.points > 0:
        return f"Yes, the quantized network is even better on these images: {figures}."
    if difference.low > -_SMALL:
        return f"Yes, the loss of accuracy is small: {figures}."
    return f"The quantized network is less accurate: {figures}."


def _figures(run: ReportedRun, difference: AccuracyDifference | None) -> tuple[Figure, ...]:
    found = []
    if difference is not None and run.before is not None and run.after is not None:
        found += [
            Figure("top-1", f"{run.after.top1:.2f} %", f"float {run.before.top1:.2f} %"),
            Figure(
                "difference",
                f"{signed(difference.points)}",
                f"points, 95 % from {signed(difference.low)} to {signed(difference.high)}",
            ),
        ]
    size = run.record.size
    if size is None:
        found.append(Figure("size", _UNKNOWN))
    else:
        ratio = size.float_bytes / max(size.quantized_bytes, 1)
        detail = f"float {bytes_as_text(size.float_bytes)}, {ratio:.1f} times smaller"
        found.append(Figure("size", bytes_as_text(size.quantized_bytes), detail))
    for latency in run.latencies[:1]:
        ratio = latency.float_seconds / latency.seconds if latency.seconds > 0 else 0.0
        detail = f"float {seconds_as_text(latency.float_seconds)}, {ratio:.2f} times as fast; {latency.runtime}"
        found.append(Figure("one image", seconds_as_text(latency.seconds), detail))
    found.append(Figure("time to quantize", seconds_as_text(run.seconds), _device(run)))
    return tuple(found)


def _device(run: ReportedRun) -> str:
    device, threads = (run.record.environment.get(key) for key in ("device", "threads"))
    return (
        f"{device}, {counted(threads, 'thread')}"
        if device == "cpu" and isinstance(threads, int)
        else str(device or "")
    )


def _table(run: ReportedRun) -> Table:
    before, after, size = run.before, run.after, run.record.size
    rows: list[tuple[str, str, str]] = []
    if before is not None and after is not None:
        rows += [
            ("top-1", f"{before.top1:.2f} %", f"{after.top1:.2f} %"),
            ("top-5", f"{before.top5:.2f} %", f"{after.top5:.2f} %"),
            ("images", f"{before.count:,}", f"{after.count:,}"),
        ]
    else:
        rows.append(("top-1", _UNKNOWN, _UNKNOWN))
    if size is not None:
        sizes = bytes_as_text(size.float_bytes), bytes_as_text(size.quantized_bytes)
        rows.append(("parameters", *sizes))
    else:
        rows.append(("parameters", _UNKNOWN, _UNKNOWN))
    for one in run.latencies:
        times = seconds_as_text(one.float_seconds), seconds_as_text(one.seconds)
        rows.append((f"one image, {one.file} on {one.runtime}", *times))
    if not run.latencies:
        rows.append(("one image", _UNKNOWN, f"{_UNKNOWN}: export the run and verify the file"))
    return Table("Before and after", ("", "float", "quantized"), tuple(rows))


def draw_differences(
    name: str, differences: Sequence[tuple[str, AccuracyDifference]], against: str
) -> Chart:
    """Return differences of accuracy with their intervals, one above the other, against no difference."""

    def paint(axes: Sequence["Axes"]) -> None:
        axis = axes[0]
        for place, (_, found) in enumerate(differences):
            color = BAD if found.high < 0 else ACCENT
            axis.plot(
                [found.low, found.high], [-place, -place], color=color, linewidth=5, alpha=0.35
            )
            axis.plot([found.points], [-place], "o", color=color, markersize=7)
        axis.axvline(0, color=GRID, linewidth=1.2)
        axis.set_yticks([-place for place in range(len(differences))])
        axis.set_yticklabels([shorten(label, 30) for label, _ in differences])
        axis.set_ylim(-len(differences) + 0.4, 0.6)
        axis.set_xlabel(f"points of top-1, against {shorten(against, 36)}")
        axis.grid(visible=True, axis="x")
        axis.grid(visible=False, axis="y")
        axis.margins(x=0.1)

    said = "; ".join(
        f"{label}: {signed(one.points)} points, from {signed(one.low)} to {signed(one.high)}"
        for label, one in differences
    )
    return draw(
        name,
        "Difference of accuracy, with its 95 % confidence interval",
        said,
        paint,
        heights=(0.32 * len(differences) + 0.15,),
        above=0.05,
        below=0.45,
        left=0.05 + room_for([label for label, _ in differences], 30),
    )
