"""The pictures, as SVG whose text is text and whose colors can be read on light and on dark pages."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.held_out.results import held_out_store
from mrecg.quantizers.adaround import rectified_sigmoid
from mrecg.report.parts import Chart
from mrecg.report.sections.loss import draw_losses

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
COLORS = {"ink": GRAY, "muted": GRAY, "grid": "#7a7f8755", "series-1": BLUE, "series-2": ORANGE}
"""Of the variables in charts of the report: they can be read on light and on dark pages."""
CELL = {"network": "mobilenetv2_small", "bits": "w2a2", "steps": 125, "images": 256}
"""The packaged network."""
COMPARED = {"blocks": "single blocks", "gain": "joined"}
"""What is compared, and how it is called."""


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
    """Draw what `mrecg compare` draws: the loss where groups end, with single blocks and joined; return how many results it shows."""
    found = [one for one in held_out_store(results).read() if CELL.items() <= one.items()]
    blocks, joined = ([one for one in found if one["variant"] == name] for name in COMPARED)
    inside = {unit for run in joined for group in run["joined"] for unit in group[:-1]}
    ends = [unit for unit in blocks[0]["losses"] if unit not in inside]
    series = [
        (label, [[run["losses"][unit] for unit in ends] for run in runs])
        for label, runs in zip(COMPARED.values(), (blocks, joined), strict=True)
    ]
    path.write_text(_alone(draw_losses("joining", ends, series)), encoding="utf-8")
    return len(blocks) + len(joined)


def _alone(chart: Chart) -> str:
    """Return a chart of a page as a file: with colors in place of the variables of the page's style."""
    svg = re.sub(r"var\(--([\w-]+)\)", lambda found: COLORS[found[1]], str(chart.svg))
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg}\n'
