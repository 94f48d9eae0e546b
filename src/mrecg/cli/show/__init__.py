"""Terminal output: progress, tables, the loss along the network."""

from mrecg.cli.show.exports import show_verification
from mrecg.cli.show.paper import (
    estimates_as_json,
    show_estimate,
    show_notes,
    show_outcome,
    show_rows,
    show_total,
)
from mrecg.cli.show.progress import Reporter
from mrecg.cli.show.results import (
    demo_as_json,
    show_accuracy,
    show_demo,
    show_plan,
    show_record,
    show_skipped,
)

__all__ = [
    "Reporter",
    "demo_as_json",
    "estimates_as_json",
    "show_accuracy",
    "show_demo",
    "show_estimate",
    "show_notes",
    "show_outcome",
    "show_plan",
    "show_record",
    "show_rows",
    "show_skipped",
    "show_total",
    "show_verification",
]
