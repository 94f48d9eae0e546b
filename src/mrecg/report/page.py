"""The page as one file: no other file, no script and no address is needed to see it."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mrecg.errors import RunError
from mrecg.report.parts import Chapter, Section
from mrecg.report.reported_run import ReportedRun
from mrecg.report.sections.convergence import convergence_section
from mrecg.report.sections.joins import joins_section
from mrecg.report.sections.left_out import left_out_section
from mrecg.report.sections.loss import loss_section
from mrecg.report.sections.numbers import numbers_section
from mrecg.report.sections.origin import origin_section
from mrecg.report.sections.verdict import verdict_section
from mrecg.report.sections.widths import widths_section
from mrecg.report.wording import counted
from mrecg.writing import require_new_file, write_file

__all__ = ["Page", "make_page", "render", "run_chapter"]


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        html: the whole file.
    """

    html: str

    def write(self, path: str | Path) -> Path:
        """Write the page into a new file.

        Raises:
            RunError: it exists, or cannot be written.
        """
        target = Path(path)
        require_new_file(target)
        self.replace(target)
        return target

    def replace(self, path: Path) -> None:
        """Write the page into a file, whole or not at all; one that is there is replaced.

        Raises:
            RunError: it cannot be written.
        """
        # A name may hold half of a pair of surrogates, which no file can.
        write_file(path, self.html.encode(errors="replace"), RunError)

    def __repr__(self) -> str:
        return f"Page({len(self.html):,} characters; write it with .write(path))"

    def _repr_html_(self) -> str:
        """Return the page in a frame, so that its style stays its own."""
        frame = 'style="width: 100%; height: 80vh; border: 0"'
        return f'<iframe {frame} srcdoc="{html.escape(self.html)}"></iframe>'


def run_chapter(run: ReportedRun, key: str = "run") -> Chapter:
    """Return everything about a run, from the answer to where it comes from.

    Args:
        run: what to report on.
        key: starts the ids of its charts; unique in a page.
    """
    units = counted(len(run.record.units), "unit")
    subtitle = f"{run.recipe.name} · {run.widths} (weights/activations) · {units} · {counted(run.record.images, 'image')}"
    widths = widths_section(run, key)
    sections: tuple[Section, ...] = (
        verdict_section(run, key),
        *(() if widths is None else (widths,)),
        loss_section(run, key),
        joins_section(run, key),
        convergence_section(run, key),
        numbers_section(run, key),
        left_out_section(run),
        origin_section(run),
    )
    return Chapter(run.name, subtitle, sections)


def make_page(title: str, chapters: Sequence[Chapter]) -> Page:
    """Return a page about some runs."""
    return Page(render("page.html", title=title, chapters=chapters))


def render(template: str, **values: object) -> str:
    """Return a template of this room with values in it; text in them is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mrecg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)
