"""Fragments that a notebook shows of a run and of a comparison: figures, tables, the loss along the network."""

from dataclasses import replace

from mrecg.report.comparison import Comparison
from mrecg.report.comparison_page import comparison_chapter
from mrecg.report.page import render
from mrecg.report.reported_run import ReportedRun
from mrecg.report.sections.loss import loss_section
from mrecg.report.sections.verdict import verdict_section
from mrecg.report.wording import bytes_as_text, counted, percent

__all__ = ["comparison_as_html", "run_as_html", "run_as_text"]


def run_as_text(run: ReportedRun) -> str:
    """Return a run in a line."""
    record = run.record
    said = [f"{run.recipe.name}: {run.widths}", counted(len(record.units), "unit")]
    if record.plan.joined:
        said.append(counted(len(record.plan.joined), "joined group"))
    if run.after is not None and run.before is not None:
        said.append(f"top-1 {run.after.top1:.2f} % (float {run.before.top1:.2f} %)")
    else:
        said.append(f"loss at the end {percent(record.units[-1].relative_loss)}")
    if record.size is not None:
        said.append(bytes_as_text(record.size.quantized_bytes))
    return f"QuantizedModel({', '.join(said)})"


def run_as_html(run: ReportedRun) -> str:
    """Return a run as a fragment of a page."""
    loss = loss_section(run, "mrecg")
    tables = tuple(replace(table, is_open=True) for table in loss.tables)
    sections = [verdict_section(run, "mrecg"), replace(loss, tables=tables)]
    return render("fragment.html", sections=sections)


def comparison_as_html(comparison: Comparison) -> str:
    """Return a comparison as a fragment of a page."""
    chapter = comparison_chapter(comparison, "mrecg-comparison")
    return render("fragment.html", sections=chapter.sections)
