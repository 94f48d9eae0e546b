"""The page as one file: no other file, no script and no address is needed to see it."""

from collections.abc import Sequence
from pathlib import Path

from mrecg.errors import RunError
from mrecg.records.json_model import require_new_file
from mrecg.report.parts import Chapter, Section
from mrecg.report.reported_run import ReportedRun
from mrecg.report.sections.convergence import convergence
from mrecg.report.sections.joins import joined_units
from mrecg.report.sections.left_out import left_out
from mrecg.report.sections.loss import loss_along_the_network
from mrecg.report.sections.numbers import numbers
from mrecg.report.sections.origin import origin
from mrecg.report.sections.verdict import verdict
from mrecg.report.wording import counted

__all__ = ["render_page", "run_chapter", "write_page"]


def run_chapter(run: ReportedRun, key: str = "run") -> Chapter:
    """Return everything about a run, from the answer to where it comes from.

    Args:
        run: what to report on.
        key: starts the ids of its charts; unique in a page.
    """
    units = counted(len(run.record.units), "unit")
    subtitle = f"{run.recipe.name} · {run.widths} (weights/activations) · {units} · {counted(run.record.images, 'image')}"
    sections: tuple[Section, ...] = (
        verdict(run, key),
        loss_along_the_network(run, key),
        joined_units(run, key),
        convergence(run, key),
        numbers(run, key),
        left_out(run),
        origin(run),
    )
    return Chapter(run.name, subtitle, sections)


def render_page(title: str, chapters: Sequence[Chapter]) -> str:
    """Return a page of HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mrecg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = environment.loader.get_source(environment, "style.css")[0]  # type: ignore[union-attr]
    return environment.get_template("page.html").render(title=title, chapters=chapters, style=style)


def write_page(path: str | Path, page: str) -> Path:
    """Write a page into a new file.

    Raises:
        RunError: it exists, or cannot be written.
    """
    target = Path(path)
    require_new_file(target)
    try:
        target.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise RunError(f"The file {target} cannot be written: {error.strerror}.") from error
    return target
