"""Commands that quantize a network or plan it: demo, quantize, plan."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mrecg.cli.consoles import console, error_console
from mrecg.cli.float_accuracy import measure_float
from mrecg.cli.inputs import Inputs
from mrecg.cli.option_groups import command
from mrecg.cli.options import AsJson, Memory, NetworkOptions
from mrecg.cli.recipe_choice import choose_recipe
from mrecg.paper.mqbench import read_experiment
from mrecg.records.json_model import require_new_file
from mrecg.records.plan import Plan

if TYPE_CHECKING:
    from mrecg.data import EvaluationBatches
    from mrecg.records.evaluation import Evaluation
    from mrecg.runs.folder import QuantizedModel

__all__ = ["demo", "plan", "quantize"]


@command
def demo(
    bits: Annotated[str, typer.Option(help="Widths of weights and activations.")] = "w2a2",
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps per group.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 1005,
    output: Annotated[
        Path | None, typer.Option(help="Save the last run into a new folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Quantize the packaged network on packaged images: to nearest, by blocks, by MRECG, and as a whole."""
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


@command
def quantize(
    context: typer.Context,
    options: NetworkOptions,
    output: Annotated[Path, typer.Option(help="A new folder for the run.")],
    plan_file: Annotated[Path | None, typer.Option("--plan", help="A plan file to follow.")] = None,
    evaluation_images: Annotated[
        int | None,
        typer.Option(min=0, help="Evaluate on so many images, spread evenly; 0 measures nothing."),
    ] = None,
    memory: Memory = None,
    as_json: AsJson = False,
) -> None:
    """Measure a float network, quantize it, measure it again, and save the run."""
    from mrecg.cli.show import Reporter, show_notes, show_record
    from mrecg.distributed import wait
    from mrecg.pipeline import prepare
    from mrecg.runs.folder import check_free

    check_free(output)
    wait()
    experiment = None if options.config is None else read_experiment(options.config)
    if experiment is not None:
        show_notes(error_console, experiment)
    recipe = choose_recipe(options, experiment)
    followed = None if plan_file is None else Plan.read(plan_file)
    inputs = Inputs.resolve(options, experiment)
    model, calibration = inputs.model(), inputs.calibration(recipe.seed)
    batches = inputs.evaluation(evaluation_images)
    prepared = prepare(model, calibration, recipe=recipe, memory=memory)
    # In seconds; the evaluation may take minutes.
    prepared.check(followed)
    prepared.check_storable()
    # Standard output holds nothing but JSON where a script reads it.
    spoken = error_console if as_json else console
    before = None
    if batches is not None:
        before = measure_float(model, inputs.network, batches, spoken)
    with Reporter(error_console) as reporter:
        quantized = prepared.quantize(followed, progress=reporter)
    quantized = quantized.with_found(command=context.obj or ())
    quantized = _measured_and_saved(quantized, before, batches, output)
    if as_json:
        console.print_json(quantized.record.to_json())
    else:
        show_record(console, quantized.record, output)


def _measured_and_saved(
    quantized: "QuantizedModel",
    before: "Evaluation | None",
    batches: "EvaluationBatches | None",
    output: Path,
) -> "QuantizedModel":
    """Measure the quantized model where the float one was measured, and save it.

    The result of hours is saved even if the evaluation fails.
    """
    from mrecg.distributed import is_first
    from mrecg.evaluation import with_accuracy

    try:
        if batches is not None and before is not None:
            quantized = with_accuracy(quantized, before, batches, batches.skipped)
    finally:
        if is_first():
            quantized.save(output)
    return quantized


@command
def plan(
    options: NetworkOptions,
    metric: Annotated[
        Literal["capacity", "loss", "stage"] | None,
        typer.Option(help="The rule that joins neighbors, in place of the recipe's."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the plan into a JSON file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show which units would be reconstructed jointly, and why; only the metric `loss` needs images and weights."""
    from mrecg.cli.show import Reporter, show_plan
    from mrecg.distributed import is_first, wait
    from mrecg.paper.published import published_joins
    from mrecg.pipeline import prepare

    if output is not None:
        require_new_file(output)
    wait()
    experiment = None if options.config is None else read_experiment(options.config)
    if metric is not None:
        # Groups or a scheme of the recipe belong to another rule. The caller's own settings come last.
        rule = [f"plan.join={metric}", "plan.groups=[]", "plan.scheme=[]"]
        options = replace(options, overrides=[*rule, *(options.overrides or [])])
    recipe = choose_recipe(options, experiment)
    inputs = Inputs.resolve(options, experiment)
    needs_images = recipe.plan.join == "loss"
    model = inputs.model(needs_images)
    images = inputs.calibration(recipe.seed) if needs_images else inputs.blank_images()
    with Reporter(error_console) as reporter:
        found = prepare(model, images, recipe=recipe).plan(progress=reporter)
    if output is not None and is_first():
        found.write(output)
    if as_json:
        console.print_json(found.to_json())
    else:
        units = [name for group in found.groups for name in group]
        show_plan(console, found, published_joins(inputs.network, units))
