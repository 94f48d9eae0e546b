"""The command for the accuracy of a saved run: evaluate."""

from mrecg.cli.consoles import console, error_console, say
from mrecg.cli.option_groups import command
from mrecg.cli.options import (
    EvaluationImages,
    ImageOptions,
    ProgressOptions,
    RunFolder,
    worker_count,
)

__all__ = ["evaluate"]


@command
def evaluate(
    run: RunFolder,
    options: ImageOptions,
    output: ProgressOptions,
    evaluation_images: EvaluationImages = None,
) -> None:
    """Count what a saved quantized model classifies correctly, on the images that the run remembers.

    Example: mrecg evaluate runs/first
    """
    from mrecg import evaluation
    from mrecg.cli.preprocessing_choice import run_preprocessing
    from mrecg.cli.remembered import source_of
    from mrecg.cli.show import accuracy_text, show_skipped
    from mrecg.cli.watching import reporting
    from mrecg.data import evaluation_batches
    from mrecg.distributed import local_device
    from mrecg.runs.folder import load

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
        counted = reporter.counted("quantized", batches, batches.count)
        result = evaluation.evaluate(quantized.model.to(local_device()), counted)
        show_skipped(error_console, batches.skipped)
    if output.as_json:
        names = ("count", "correct1", "correct5", "top1", "top5")
        console.print_json(data={name: getattr(result, name) for name in names})
    else:
        say(console, accuracy_text("quantized", result))
