"""Charts as SVG: drawn by matplotlib, with text that can be selected and colors that the page decides."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from mrecg.report.parts import Chart
from mrecg.report.wording import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "ACCENT",
    "BAD",
    "FAINT",
    "GRID",
    "INK",
    "MUTED",
    "NAME_SIZE",
    "SERIES",
    "draw",
    "label_units",
    "put_legend",
    "room_for",
    "write_numbers",
]

INK, MUTED, GRID, FAINT = "#000001", "#000002", "#000003", "#000004"
ACCENT, BAD = "#000005", "#000006"
SERIES = (ACCENT, "#000007", "#000008", "#000009", "#00000a", "#00000b")
"""Colors of runs that are compared. None of these is ever seen: each stands for a variable of the page's style."""
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    FAINT: "faint",
    ACCENT: "series-1",
    BAD: "bad",
    **{color: f"series-{place}" for place, color in enumerate(SERIES, start=1)},
}
_WIDTH = 5.8
"""Inches; the page scales it."""
_FONT_SIZE = 8.5
NAME_SIZE = 7.5
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.family": ["sans-serif"],
    "font.size": _FONT_SIZE,
    "axes.titlesize": _FONT_SIZE,
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.titlecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "xtick.labelcolor": MUTED,
    "xtick.major.size": 0.0,
    "ytick.color": GRID,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0.0,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": _FONT_SIZE,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.0,
    "lines.solid_capstyle": "round",
    "patch.linewidth": 0.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def draw(
    name: str,
    caption: str,
    description: str,
    paint: Callable[[Sequence["Axes"]], None],
    *,
    heights: Sequence[float] = (2.2,),
    columns: int = 1,
    above: float = 0.3,
    below: float = 0.4,
    left: float = 0.55,
) -> Chart:
    """Return a chart.

    Args:
        name: unique in the page; ids start with it.
        caption: what the chart shows.
        description: what is to be seen in it, for those who cannot see it.
        paint: draws on the axes.
        heights: of the axes one above the other, in inches.
        columns: axes beside each other, which `paint` gets row by row.
        above: room for titles and legends of the highest axis, in inches.
        below: room for the labels of the lowest axis, in inches.
        left: room for the labels of the vertical axes, in inches.
    """
    from matplotlib import style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    between, beside, right = 0.42, 0.25, 0.12
    width = (_WIDTH - left - right + beside) / columns - beside
    height = above + sum(heights) + between * (len(heights) - 1) + below
    made = io.StringIO()
    with style.context(["default", {**_STYLE, "svg.hashsalt": name}]), warnings.catch_warnings():
        # A font may lack letters of a name: here it only measures text, and the browser has others.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(_WIDTH, height))
        FigureCanvasSVG(figure)
        top, axes = height - above, []
        for tall in heights:
            for column in range(columns):
                start = left + column * (width + beside)
                place = (start / _WIDTH, (top - tall) / height, width / _WIDTH, tall / height)
                axes.append(figure.add_axes(place))
            top -= tall + between
        paint(axes)
        figure.savefig(made, format="svg", metadata={"Date": None})
    return Chart(_as_element(made.getvalue(), name, caption, description), caption)


def room_for(names: Sequence[str], most: int) -> float:
    """Return the inches that the longest of some names takes, shortened to so many letters."""
    return 0.14 + 0.067 * max(len(shorten(name, most)) for name in names)


def put_legend(axis: "Axes") -> None:
    """Put the legend above an axis, at its left end."""
    axis.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=4,
        columnspacing=1.4,
        handletextpad=0.5,
        borderaxespad=0.2,
        borderpad=0.0,
    )


def write_numbers(axis: "Axes", unit: str = "") -> None:
    """Write plain numbers along the vertical axis, also along one of logarithms, each with its unit."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{unit}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def label_units(axis: "Axes", names: Sequence[str]) -> None:
    """Write the names of units beneath an axis; of very many, some."""
    every = -(-len(names) // 45)
    axis.set_xticks(range(0, len(names), every))
    axis.set_xticklabels(
        [shorten(name, 20) for name in names[::every]],
        rotation=90,
        fontsize=NAME_SIZE,
        family="monospace",
    )
    axis.set_xlim(-0.7, len(names) - 0.3)


def _as_element(text: str, name: str, caption: str, description: str) -> str:
    """Return a file's SVG as an element of a page: described, with ids of its own and variables for colors."""
    root = ElementTree.fromstring(text)
    for child in [one for one in root if one.tag == f"{{{_SVG}}}metadata"]:
        root.remove(child)
    # In a page, its style would reach everything; lines inherit theirs from the element.
    for parent in root.iter(f"{{{_SVG}}}defs"):
        for child in [one for one in parent if one.tag == f"{{{_SVG}}}style"]:
            parent.remove(child)
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt")
    # What clips and markers refer to keeps its id; two charts must not share one.
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    for element in root.iter():
        kept = element.get("id")
        if kept is not None:
            element.attrib.pop("id")
            if kept in used:
                element.set("id", f"{name}-{kept}")
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for place, (tag, said) in enumerate((("title", caption), ("desc", description))):
        element = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = "".join(letter if letter.isprintable() else " " for letter in said)
        root.insert(place, element)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    made = ElementTree.tostring(root, encoding="unicode")
    made = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", made)
    return re.sub(
        r"#0000[0-9a-f]{2}\b", lambda found: f"var(--{_VARIABLES.get(found[0], 'ink')})", made
    )
