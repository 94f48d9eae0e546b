"""The last lines of `mrecg quantize`: did it work, where does the error arise, where is the run, what comes next."""

import shlex
from pathlib import Path

from rich.console import Console

from mrecg.cli.consoles import say
from mrecg.cli.show.widths import show_target
from mrecg.config.recipe import Recipe
from mrecg.config.texts import size
from mrecg.data import name_some
from mrecg.records.record import Record

__all__ = ["show_ending"]


def show_ending(console: Console, record: Record, recipe: Recipe, folder: Path) -> None:
    """Show five lines, and a sixth where something did not go as planned."""
    if record.target is not None:
        show_target(console, record.target)
    lines = {
        "accuracy": _accuracy(record),
        "size": _size(record),
        "widths": _widths(record),
        "worst unit": f"{record.oscillation.largest_unit}: its loss is "
        f"{100 * record.oscillation.largest_loss:.3g} % of the signal's power",
        "note": _exceptions(record),
        "run": f"{folder}, with a page: report.html",
        "next": _next(recipe, folder),
    }
    for label, text in lines.items():
        if text:
            say(console, f"{label + ':':<12}{text}")


def _accuracy(record: Record) -> str:
    if "float" not in record.accuracy or "quantized" not in record.accuracy:
        return "not measured"
    before, after = record.accuracy["float"], record.accuracy["quantized"]
    return f"{before.top1:.2f} % → {after.top1:.2f} % top-1 of {after.count} images"


def _size(record: Record) -> str:
    if record.size is None:
        return "not recorded"
    before, after = record.size.float_bytes, record.size.quantized_bytes
    ratio = f", {before / after:.1f} times smaller" if after else ""
    return f"{size(before)} → {size(after)} of parameters{ratio}"


def _widths(record: Record) -> str:
    """Say what was chosen within a budget."""
    if record.bits is None:
        return ""
    return f"{record.bits.cost.bits:.2f} bits for a weight on average, chosen within {record.bits.budget}"


def _exceptions(record: Record) -> str:
    """Name what stayed in float, was taken back, or was skipped."""
    found = []
    if record.left_in_float:
        found.append(f"left in float: {name_some(record.left_in_float)}")
    back = [" + ".join(group.units) for group in record.groups if not group.accepted]
    if record.network is not None and not record.network.accepted:
        back.append("the network as a whole")
    if back:
        found.append(f"no better than before and taken back: {name_some(back)}")
    if record.skipped_images:
        found.append(f"{len(record.skipped_images)} unreadable images skipped")
    return "; ".join(found)


def _next(recipe: Recipe, folder: Path) -> str:
    run = shlex.quote(str(folder))
    if recipe.weight.logarithmic or recipe.activation.logarithmic:
        return f"mrecg evaluate {run}"  # logarithms run in PyTorch alone
    return f"mrecg export {run} --output {shlex.quote(f'{folder}.onnx')}"
