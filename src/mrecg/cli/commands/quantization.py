"""Commands that quantize a network or plan it: demo, quantize, plan."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from mrecg.cli.consoles import console, error_console
from mrecg.cli.inputs import Inputs
from mrecg.cli.jobs import QuantizeJob
from mrecg.cli.option_groups import command
from mrecg.cli.options import After, Memory, NetworkOptions, ProgressOptions, SizeBudget
from mrecg.cli.recipe_choice import choose_recipe
from mrecg.cli.resumption import (
    given_command,
    is_repeated,
    repeat_command,
    required_folder,
    resumable,
)
from mrecg.errors import RecipeError, TargetError
from mrecg.mixed_precision.budgets import read_budget
from mrecg.paper.mqbench import read_experiment
from mrecg.records.plan import Plan
from mrecg.writing import require_new_file

if TYPE_CHECKING:
    from torch import Tensor

    from mrecg.data import CalibrationImages

__all__ = ["demo", "plan", "quantize"]


@dataclass(frozen=True)
class QuantizeOutput(ProgressOptions):
    """Say what is printed and written besides the run."""

    panel: ClassVar[str] = "Output"
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show joins and the loss of every unit, too.")
    ] = False
    tensorboard: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the losses for TensorBoard, too."),
    ] = None


@command
def demo(
    shown: ProgressOptions,
    bits: Annotated[
        str, typer.Option(metavar="WIDTHS", help="Of weights and activations.")
    ] = "w2a2",
    steps: Annotated[
        int, typer.Option(min=1, metavar="N", help="Optimizer steps per group.")
    ] = 100,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of everything random.")] = 1005,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save the last run into a new folder.")
    ] = None,
) -> None:
    """Quantize the packaged network on packaged images: to nearest, by blocks, by MRECG, and as a whole.

    Example: mrecg demo --output runs/demo
    """
    from mrecg.cli.show import demo_as_json, show_demo
    from mrecg.cli.watching import reporting
    from mrecg.demo import run_demo
    from mrecg.distributed import is_first, wait
    from mrecg.runs.places import check_free

    if output is not None:
        check_free(output)
    wait()
    with reporting(shown) as reporter:
        rows = run_demo(bits, steps, seed, reporter.named)
    if output is not None and rows[-1].quantized is not None and is_first():
        rows[-1].quantized.save(output)
    if shown.as_json:
        console.print_json(data=demo_as_json(rows))
    else:
        show_demo(console, rows, output)


@command
def quantize(
    context: typer.Context,
    options: NetworkOptions,
    shown: QuantizeOutput,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A new folder for the run.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Go on with an interrupted run, with the options that it was started with.",
        ),
    ] = None,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="A plan to follow, from mrecg plan --output."),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Where accuracy is measured; by default the test part of --data.",
        ),
    ] = None,
    evaluation_images: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Measure on so many images, spread evenly; 0 measures nothing.",
        ),
    ] = None,
    budget: SizeBudget = None,
    after: After = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="POINTS",
            help="Take the cheapest recipe that loses at most so many points of top-1; without labels, "
            "the largest divergence from float.",
        ),
    ] = None,
    memory: Memory = None,
) -> None:
    """Measure a float network, quantize it, measure it again, and save the run.

    Example: mrecg quantize --network my_package:build --data folder:images \\
                            --bits w4a4 --output runs/first
    """
    from mrecg.cli.show import show_ending, show_notes, show_record
    from mrecg.cli.watching import reporting
    from mrecg.runs.places import reserve

    if resume is not None:
        repeat_command(context, resume)
        return
    with (
        reserve(required_folder(output), resume=is_repeated(context), together=True) as place,
        resumable(place),
    ):
        experiment = None if options.config is None else read_experiment(options.config)
        if experiment is not None and not shown.quiet:
            show_notes(error_console, experiment)
        recipe = choose_recipe(options, experiment)
        if budget is not None:
            read_budget(budget)
        if after is not None and budget is None and max_drop is None:
            raise RecipeError("--after measures sensitivity; give --budget or --max-drop, too.")
        if max_drop is not None and plan_file is not None:
            raise RecipeError(
                "--max-drop tries several recipes, so no plan fits all; leave --plan out."
            )
        followed = None if plan_file is None else Plan.read(plan_file)
        inputs = Inputs.resolve(options, experiment, validation)
        inputs.named_data()
        with reporting(shown) as reporter:
            job = QuantizeJob(
                inputs,
                recipe,
                followed,
                evaluation_images,
                memory,
                place,
                shown.tensorboard,
                given_command(context),
                budget,
                after,
                max_drop,
            )
            quantized = job.run(reporter)
    record = quantized.record
    if shown.as_json:
        console.print_json(record.to_json())
    else:
        if shown.verbose:
            show_record(console, record)
        show_ending(console, record, quantized.recipe, place.folder)
    if record.target is not None and not record.target.is_held:
        raise TargetError(record.target.verdict)


@command
def plan(
    options: NetworkOptions,
    shown: ProgressOptions,
    metric: Annotated[
        Literal["capacity", "loss", "stage"] | None,
        typer.Option(help="The rule that joins neighbors, in place of the recipe's."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the plan into a JSON file.")
    ] = None,
) -> None:
    """Show which units would be reconstructed jointly, and why; only the metric `loss` needs images and weights.

    Example: mrecg plan --network resnet18 --metric capacity --output plan.json
    """
    from mrecg.cli.show import show_plan
    from mrecg.cli.watching import reporting
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
    if needs_images:
        inputs.named_data()
    with reporting(shown) as reporter:
        model = inputs.model(needs_images)
        images: Tensor | CalibrationImages = inputs.blank_images()
        if needs_images:
            with reporter.phase("images"):
                images = inputs.calibration(recipe.seed)
        with reporter.phase("capture"):
            prepared = prepare(model, images, recipe=recipe)
        found = prepared.plan(progress=reporter)
    if output is not None and is_first():
        found.write(output)
    if shown.as_json:
        console.print_json(found.to_json())
    else:
        units = [name for group in found.groups for name in group]
        show_plan(console, found, published_joins(inputs.network, units))
