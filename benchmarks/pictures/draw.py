"""The pictures, as SVG whose text is text and whose colors can be read on light and on dark pages."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks.held_out.results import held_out_store
from benchmarks.store import Result
from mrecg.quantizers.adaround import rectified_sigmoid

__all__ = ["draw_joining", "draw_rounding"]

GRAY, BLUE, ORANGE, GREEN = "#7a7f87", "#3b7dd8", "#d9731a", "#2f9e6e"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": GRAY,
    "axes.labelcolor": GRAY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": GRAY,
    "axes.titlesize": "medium",
    "legend.frameon": False,
    "legend.labelcolor": GRAY,
    "savefig.transparent": True,
    "svg.fonttype": "none",  # text that can be selected
    "svg.hashsalt": "mrecg",  # the same picture is the same file
    "xtick.color": GRAY,
    "ytick.color": GRAY,
}
BETAS = (20.0, 8.0, 2.0)
CELL = {"network": "mobilenetv2_small", "bits": "w2a2", "steps": 125, "images": 256, "seed": 1005}
"""The packaged network, the first seed."""


@contextmanager
def picture(path: Path, width: float, parts: int = 1) -> Iterator[list[Axes]]:
    """Give axes to draw on, side by side, and write the file afterwards."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, 3.2), layout="constrained")
        yield list(figure.subplots(1, parts, squeeze=False)[0])
        figure.savefig(path, metadata={"Date": None})


def draw_rounding(path: Path) -> None:
    """Draw h(V), and the penalty 1 − |2h − 1|^β for several β."""
    alpha = torch.linspace(-4, 4, 161)
    h = torch.linspace(0, 1, 161)
    with picture(path, 8.0, parts=2) as (left, right):
        left.plot(alpha, rectified_sigmoid(alpha), color=BLUE)
        left.set(title="rectified sigmoid", xlabel="V", ylabel="h(V)")
        for beta, color in zip(BETAS, (BLUE, GREEN, ORANGE), strict=True):
            penalty = 1 - (2 * h - 1).abs() ** beta
            right.plot(h, penalty, color=color, label=f"β = {beta:g}")
        right.set(title="penalty", xlabel="h", ylabel="1 − |2h − 1|^β")
        right.legend()


def draw_joining(results: Path, path: Path) -> int:
    """Draw the relative loss where groups end, for blocks and joined groups; return how many results it shows."""
    found = {
        one["variant"]: one for one in held_out_store(results).read() if CELL.items() <= one.items()
    }
    blocks, joined = found["blocks"], found["gain"]
    ends = _ends(joined)
    with picture(path, 8.0) as (axes,):
        for run, color, label in ((blocks, ORANGE, "single blocks"), (joined, BLUE, "joined")):
            losses = [run["losses"][unit] for unit in ends]
            axes.plot(range(len(ends)), losses, color=color, label=label, marker="o", markersize=4)
        axes.set(ylabel="relative loss", ylim=(0, None))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xticks(range(len(ends)), _labels(joined, ends), rotation=30, ha="right")
        axes.legend()
    return 2


def _ends(run: Result) -> list[str]:
    """Return the units where the groups of a run end."""
    inside = {unit for group in run["joined"] for unit in group[:-1]}
    return [unit for unit in run["losses"] if unit not in inside]


def _labels(run: Result, ends: list[str]) -> list[str]:
    """Return the units of the group that ends at each position; of a joined one the first and the last."""
    first = {group[-1]: group[0] for group in run["joined"]}
    return [
        f"{first[unit]} … {unit.rpartition('.')[2]}" if unit in first else unit for unit in ends
    ]
