"""The accuracy of float networks, compared with what is published."""

from typing import TYPE_CHECKING

from mrecg.cli.consoles import error_console, say

if TYPE_CHECKING:
    from torch import nn

    from mrecg.data import EvaluationBatches
    from mrecg.monitoring import Reporter
    from mrecg.records.evaluation import Evaluation

__all__ = ["measure_float", "warn_below_published"]


def measure_float(
    model: "nn.Module", network: str, batches: "EvaluationBatches", reporter: "Reporter"
) -> "Evaluation":
    """Measure the accuracy before quantization; warn if it is too low.

    That means wrong images or weights, which would look like bad quantization later.
    """
    from mrecg.cli.show import accuracy_text, show_skipped
    from mrecg.evaluation import evaluate

    counted = reporter.counted("float", batches, batches.count)
    measured = evaluate(model.eval(), counted)
    reporter.note(accuracy_text("float", measured))
    show_skipped(error_console, batches.skipped)
    warn_below_published(measured, network)
    return measured


def warn_below_published(measured: "Evaluation", network: str, label: str = "") -> None:
    """Warn of a float network whose accuracy is below the published one.

    Args:
        measured: of the float network.
        network: its name.
        label: goes before the warning.
    """
    from mrecg.evaluation import below_published
    from mrecg.paper.published import published_float_top1

    found = below_published(measured, published_float_top1(network))
    if found is not None:
        say(error_console, f"warning: {label}{found}", style="yellow")
