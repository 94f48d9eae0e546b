"""The command for the accuracy of a saved run: evaluate."""

from dataclasses import asdict
from typing import Annotated

import typer

from mrecg.cli.consoles import console, error_console
from mrecg.cli.option_groups import command
from mrecg.cli.options import AsJson, EvaluationImages, ImageOptions, RunFolder, worker_count

__all__ = ["evaluate"]


@command
def evaluate(
    run: RunFolder,
    options: ImageOptions,
    evaluation_images: EvaluationImages = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="PACKAGE:FUNCTION",
            help="Measure this function of outputs and labels, or this torchmetrics class, instead of top-1 and top-5.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count what a saved quantized model classifies correctly, or measure another metric."""
    from mrecg import evaluation
    from mrecg.cli.metric_choice import find_metric
    from mrecg.cli.preprocessing_choice import run_preprocessing
    from mrecg.cli.show import show_accuracy, show_skipped
    from mrecg.data import evaluation_batches
    from mrecg.distributed import local_device
    from mrecg.runs.folder import load

    chosen = None if metric is None else find_metric(metric)
    quantized = load(run)
    source = "fashion-mnist" if options.data is None else options.data
    batches = evaluation_batches(
        source,
        preprocessing=run_preprocessing(quantized.record, source, options),
        count=evaluation_images,
        workers=worker_count(options.workers),
    )
    network = quantized.model.to(local_device())
    if chosen is not None:
        score = evaluation.evaluate(network, batches, chosen)
        show_skipped(error_console, batches.skipped)
        console.print_json(data=score if isinstance(score, dict) else {str(metric): score})
        return
    result = evaluation.evaluate(network, batches)
    show_skipped(error_console, batches.skipped)
    if as_json:
        console.print_json(data=asdict(result) | {"top1": result.top1, "top5": result.top5})
    else:
        show_accuracy(console, "quantized", result)
