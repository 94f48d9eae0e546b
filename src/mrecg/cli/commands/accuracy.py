"""Commands for the accuracy of a saved run: evaluate, verify-run."""

from typing import Annotated

import typer

from mrecg.cli.consoles import console, error_console, say
from mrecg.cli.option_groups import command
from mrecg.cli.options import (
    EvaluationImages,
    ImageOptions,
    ProgressOptions,
    RunFolder,
    worker_count,
)
from mrecg.errors import RunError

__all__ = ["evaluate", "verify_run"]


@command
def evaluate(
    run: RunFolder,
    options: ImageOptions,
    output: ProgressOptions,
    evaluation_images: EvaluationImages = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="PACKAGE:FUNCTION",
            help="Measure this function of outputs and labels, or this torchmetrics class, instead of top-1 and top-5.",
        ),
    ] = None,
) -> None:
    """Count what a saved quantized model classifies correctly, or measure another metric.

    Example: mrecg evaluate runs/first

    The images are those that the run remembers, or those of --data.
    """
    from mrecg import evaluation
    from mrecg.cli.metric_choice import find_metric
    from mrecg.cli.preprocessing_choice import run_preprocessing
    from mrecg.cli.remembered import source_of
    from mrecg.cli.show import accuracy_text, show_skipped
    from mrecg.cli.watching import reporting
    from mrecg.data import evaluation_batches
    from mrecg.distributed import local_device
    from mrecg.runs.folder import load

    chosen = None if metric is None else find_metric(metric)
    with reporting(output) as reporter:
        with reporter.phase("load"):
            quantized = load(run)
        source = source_of(quantized.record, options, reporter)
        batches = evaluation_batches(
            source,
            preprocessing=run_preprocessing(quantized.record, source, options),
            count=evaluation_images,
            workers=worker_count(options.workers),
        )
        network = quantized.model.to(local_device())
        counted = reporter.counted("quantized", batches, batches.count)
        if chosen is not None:
            score = evaluation.evaluate(network, counted, chosen)
        else:
            result = evaluation.evaluate(network, counted)
        show_skipped(error_console, batches.skipped)
    if chosen is not None:
        console.print_json(data=score if isinstance(score, dict) else {str(metric): score})
    elif output.as_json:
        names = ("count", "correct1", "correct5", "top1", "top5")
        console.print_json(data={name: getattr(result, name) for name in names})
    else:
        say(console, accuracy_text("quantized", result))


@command
def verify_run(run: RunFolder, options: ImageOptions, output: ProgressOptions) -> None:
    """Evaluate a saved run again, on the images that it remembers, and compare with its record.

    Counts, and the images that calibrated, must be equal where machine and libraries are those of the record; elsewhere 0.1 % of the
    images may be classified differently.

    Example: mrecg verify-run runs/first
    """
    from mrecg import evaluation
    from mrecg.cli.preprocessing_choice import run_preprocessing
    from mrecg.cli.remembered import calibration_of, source_of
    from mrecg.cli.show import accuracy_text, show_skipped
    from mrecg.cli.watching import reporting
    from mrecg.data import evaluation_batches
    from mrecg.runs.folder import load

    with reporting(output) as reporter:
        with reporter.phase("load"):
            quantized = load(run)
        recorded = evaluation.recorded_accuracy(quantized.record)
        source = source_of(quantized.record, options, reporter)
        batches = evaluation_batches(
            source,
            preprocessing=run_preprocessing(quantized.record, source, options),
            count=recorded.asked,
            workers=worker_count(options.workers),
        )
        counted = reporter.counted("quantized", batches, batches.count)
        found = evaluation.repeat(
            quantized, counted, calibration_of(quantized.record, options, reporter)
        )
        show_skipped(error_console, batches.skipped)
    if output.as_json:
        names = ("count", "correct1", "correct5")
        counts = {
            kind: {name: getattr(one, name) for name in names}
            for kind, one in (("recorded", found.recorded), ("measured", found.measured))
        }
        more = {
            "differences": found.differences,
            "version": found.version,
            "same_images": found.same_images,
            "allowed": found.allowed,
            "holds": found.holds,
        }
        console.print_json(data=counts | more)
    else:
        say(console, accuracy_text("recorded", found.recorded))
        say(console, accuracy_text("measured", found.measured))
        if found.differences:
            say(console, f"the machine differs: {'; '.join(found.differences)}")
        if found.version:
            say(console, f"the version differs: {found.version}")
        if found.same_images is not None:
            text = "those of the record" if found.same_images else "other images than the record's"
            say(console, f"the images that calibrated are {text}")
    if found.same_images is False and not found.holds:
        raise RunError(
            f"The run {run} does not repeat: the images that calibrated are not those of its record; check that the source is "
            "as it was."
        )
    if not found.holds:
        raise RunError(
            f"The run {run} does not repeat: {found.measured.correct1} of {found.measured.count} images are right, the record "
            f"says {found.recorded.correct1} of {found.recorded.count}, and {found.allowed} may differ; "
            "check that the images are those of the run."
        )
