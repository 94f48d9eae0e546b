"""The command for the accuracy of a saved run: evaluate."""

from mrecg.cli.consoles import console, error_console
from mrecg.cli.option_groups import command
from mrecg.cli.options import AsJson, EvaluationImages, ImageOptions, RunFolder, worker_count

__all__ = ["evaluate"]


@command
def evaluate(
    run: RunFolder,
    options: ImageOptions,
    evaluation_images: EvaluationImages = None,
    as_json: AsJson = False,
) -> None:
    """Count what a saved quantized model classifies correctly."""
    from mrecg import evaluation
    from mrecg.cli.preprocessing_choice import run_preprocessing
    from mrecg.cli.show import show_accuracy, show_skipped
    from mrecg.data import evaluation_batches
    from mrecg.distributed import local_device
    from mrecg.runs.folder import load

    quantized = load(run)
    source = "fashion-mnist" if options.data is None else options.data
    batches = evaluation_batches(
        source,
        preprocessing=run_preprocessing(quantized.record, source, options),
        count=evaluation_images,
        workers=worker_count(options.workers),
    )
    result = evaluation.evaluate(quantized.model.to(local_device()), batches)
    show_skipped(error_console, batches.skipped)
    if as_json:
        names = ("count", "correct1", "correct5", "top1", "top5")
        console.print_json(data={name: getattr(result, name) for name in names})
    else:
        show_accuracy(console, "quantized", result)
