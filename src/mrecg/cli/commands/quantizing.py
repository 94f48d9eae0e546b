"""Commands for one network: demo, quantize, plan, evaluate."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from mrecg.cli.consoles import app, console, error_console
from mrecg.cli.inputs import (
    Inputs,
    bytes_of,
    measure_float,
    preprocessing_of,
    recipe_from,
    workers_or_usual,
)
from mrecg.cli.options import (
    AsJson,
    Backend,
    Channels,
    Config,
    Crops,
    Data,
    EvaluationImages,
    Images,
    Memory,
    Network,
    Overrides,
    PresetName,
    RecipeFile,
    Size,
    Weights,
    Workers,
)
from mrecg.paper.mqbench import read_experiment
from mrecg.records.json_model import require_new_file
from mrecg.records.plan import Plan

__all__ = ["demo", "evaluate", "plan", "quantize"]


@app.command()
def demo(
    bits: Annotated[str, typer.Option(help="Widths of weights and activations.")] = "w2a4",
    steps: Annotated[int, typer.Option(min=1, help="Optimisation steps per group.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 1005,
    output: Annotated[
        Path | None, typer.Option(help="Save the last run into a new folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Quantize the packaged network on packaged images: float, to nearest, blocks and MRECG."""
    from mrecg.cli.show import Reporter, demo_as_json, show_demo
    from mrecg.demo import run_demo
    from mrecg.distributed import is_first, wait
    from mrecg.runs.folder import check_free

    if output is not None:
        check_free(output)
    wait()
    with Reporter(error_console) as reporter:
        rows = run_demo(bits, steps, seed, reporter.named)
    if output is not None and rows[-1].quantized is not None and is_first():
        rows[-1].quantized.save(output)
    if as_json:
        console.print_json(data=demo_as_json(rows))
    else:
        show_demo(console, rows, output)


@app.command()
def quantize(
    output: Annotated[Path, typer.Option(help="A new folder for the run.")],
    network: Network = None,
    config: Config = None,
    data: Data = None,
    weights: Weights = None,
    preset_name: PresetName = None,
    recipe_file: RecipeFile = None,
    backend: Backend = None,
    overrides: Overrides = None,
    plan_file: Annotated[Path | None, typer.Option("--plan", help="A plan file to follow.")] = None,
    images: Images = None,
    crops: Crops = None,
    evaluation_images: EvaluationImages = None,
    size: Size = None,
    channels: Channels = None,
    workers: Workers = None,
    memory: Memory = None,
    as_json: AsJson = False,
) -> None:
    """Measure a float network, quantize it, measure it again, and save the run."""
    from mrecg.cli.show import Reporter, show_notes, show_record
    from mrecg.distributed import is_first, wait
    from mrecg.evaluation import with_accuracy
    from mrecg.pipeline import check
    from mrecg.pipeline import quantize as quantize_model
    from mrecg.runs.folder import check_free

    check_free(output)
    wait()
    allowed = bytes_of(memory)
    experiment = None if config is None else read_experiment(config)
    if experiment is not None:
        show_notes(error_console, experiment)
    recipe = recipe_from(preset_name, recipe_file, experiment, backend, overrides)
    followed = None if plan_file is None else Plan.read(plan_file)
    inputs = Inputs.resolve(
        recipe,
        experiment,
        network=network,
        weights=weights,
        data=data,
        images=images,
        crops=crops,
        size=size,
        channels=channels,
        workers=workers,
    )
    model, calibration = inputs.model(), inputs.calibration()
    batches = inputs.evaluation(evaluation_images)
    # What a script reads stays alone on standard output.
    spoken = error_console if as_json else console
    before = None
    if batches is not None:
        check(model, calibration, recipe=recipe, plan=followed)
        before = measure_float(model, inputs.network, batches, spoken)
    with Reporter(error_console) as reporter:
        quantized = quantize_model(
            model,
            calibration,
            recipe=recipe,
            plan=followed,
            progress=reporter,
            memory=allowed,
            announce=reporter.announce,
        )
    try:
        if batches is not None and before is not None:
            quantized = with_accuracy(quantized, before, batches, batches.skipped)
    finally:  # what took hours outlasts an evaluation that fails
        if is_first():
            quantized.save(output)
    if as_json:
        console.print_json(quantized.record.to_json())
    else:
        show_record(console, quantized.record, output)


@app.command()
def plan(
    network: Network = None,
    config: Config = None,
    data: Data = None,
    weights: Weights = None,
    preset_name: PresetName = None,
    recipe_file: RecipeFile = None,
    metric: Annotated[
        Literal["capacity", "loss", "stage"] | None,
        typer.Option(help="What the joined neighbours differ in, in place of the recipe's rule."),
    ] = None,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Write the plan into a JSON file.")] = None,
    images: Images = None,
    crops: Crops = None,
    size: Size = None,
    channels: Channels = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Show which units would be reconstructed jointly, and why; only the metric `loss` needs images and weights."""
    from mrecg.cli.show import Reporter, show_plan
    from mrecg.distributed import is_first, wait
    from mrecg.paper.reproduction import published_joins
    from mrecg.pipeline import make_model_plan

    if output is not None:
        require_new_file(output)
    wait()
    experiment = None if config is None else read_experiment(config)
    chosen = [f"plan.join={metric}", "plan.groups=[]", "plan.scheme=[]"] if metric else []
    recipe = recipe_from(preset_name, recipe_file, experiment, None, [*chosen, *(overrides or [])])
    inputs = Inputs.resolve(
        recipe,
        experiment,
        network=network,
        weights=weights,
        data=data,
        images=images,
        crops=crops,
        size=size,
        channels=channels,
        workers=workers,
    )
    needs_images = recipe.plan.join == "loss"
    model = inputs.model(needs_images)
    with Reporter(error_console) as reporter:
        found = make_model_plan(
            model,
            inputs.calibration() if needs_images else inputs.blank_images(),
            recipe=recipe,
            progress=reporter,
        )
    if output is not None and is_first():
        found.write(output)
    if as_json:
        console.print_json(found.to_json())
    else:
        units = [name for group in found.groups for name in group]
        show_plan(console, found, published_joins(inputs.network, units))


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    data: Data = None,
    evaluation_images: Annotated[
        int | None, typer.Option(min=1, help="Evaluate on so many images, spread evenly.")
    ] = None,
    size: Size = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Count what a saved quantized model classifies correctly."""
    from mrecg.cli.show import show_accuracy, show_skipped
    from mrecg.data import evaluation_batches
    from mrecg.distributed import local_device
    from mrecg.evaluation import evaluate as count
    from mrecg.runs.folder import load

    quantized = load(run)
    source = "fashion-mnist" if data is None else data
    batches = evaluation_batches(
        source,
        preprocessing=preprocessing_of(quantized.record, source, size),
        count=evaluation_images,
        workers=workers_or_usual(workers),
    )
    result = count(quantized.model.to(local_device()), batches)
    show_skipped(error_console, batches.skipped)
    if as_json:
        console.print_json(data=asdict(result) | {"top1": result.top1, "top5": result.top5})
    else:
        show_accuracy(console, "quantized", result)
