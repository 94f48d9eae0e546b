"""Terminal output: progress, tables, the loss along the network."""

from mrecg.cli.show.ending import show_ending
from mrecg.cli.show.exports import show_verification
from mrecg.cli.show.paper import (
    estimates_as_json,
    show_estimate,
    show_notes,
    show_outcome,
    show_rows,
    show_table,
    show_total,
)
from mrecg.cli.show.results import (
    accuracy_text,
    demo_as_json,
    show_demo,
    show_plan,
    show_record,
    show_skipped,
)

__all__ = [
    "accuracy_text",
    "demo_as_json",
    "estimates_as_json",
    "show_demo",
    "show_ending",
    "show_estimate",
    "show_notes",
    "show_outcome",
    "show_plan",
    "show_record",
    "show_rows",
    "show_skipped",
    "show_table",
    "show_total",
    "show_verification",
]
