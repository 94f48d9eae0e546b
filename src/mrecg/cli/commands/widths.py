"""The command that says which layers need bits: sensitivity."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mrecg.cli.consoles import console, say
from mrecg.cli.inputs import Inputs
from mrecg.cli.option_groups import command
from mrecg.cli.options import After, Memory, NetworkOptions, ProgressOptions, SizeBudget
from mrecg.cli.recipe_choice import choose_recipe
from mrecg.errors import RecipeError, quoted
from mrecg.mixed_precision.budgets import read_budget
from mrecg.paper.mqbench import read_experiment
from mrecg.writing import require_new_file, write_file

if TYPE_CHECKING:
    from mrecg.records.bit_choice import BitChoice

__all__ = ["sensitivity"]


@command
def sensitivity(
    options: NetworkOptions,
    shown: ProgressOptions,
    weight_bits: Annotated[
        str, typer.Option(metavar="N,N,N", help="Widths of weights to measure.")
    ] = "2,3,4,8",
    activation_bits: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,N",
            help="Widths of activations to measure; by default none, but the usual ones for a budget of bit operations.",
        ),
    ] = None,
    granularity: Annotated[
        Literal["layer", "block"], typer.Option(help="What has one width.")
    ] = "layer",
    after: After = 0,
    validation: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Where labeled images come from; by default --data."),
    ] = None,
    evaluation_images: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Measure on so many labeled images instead, and the top-1 of each width, too.",
        ),
    ] = None,
    budget: SizeBudget = None,
    write_widths: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the widths of --budget into a YAML file for --widths."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the sensitivity into a JSON file.")
    ] = None,
    memory: Memory = None,
) -> None:
    """Measure the harm of each layer alone at each width, and spread widths within a budget; no labels are needed.

    Example: mrecg sensitivity --network resnet18 --data folder:images --images 64 \\
                               --budget 3.5bits --write-widths widths.yaml
    """
    from mrecg.cli.show.widths import show_choice, show_sensitivity
    from mrecg.cli.watching import reporting
    from mrecg.distributed import is_first, wait
    from mrecg.mixed_precision.integer_program import choose_bits, require_solver
    from mrecg.mixed_precision.measurement import sensitivity as measure
    from mrecg.mixed_precision.within_budget import widths_within
    from mrecg.preparation.calibration import gather_inputs

    for file in (output, write_widths):
        if file is not None:
            require_new_file(file)
    wait()
    if (budget is None) and write_widths is not None:
        raise RecipeError("--write-widths writes the widths of a budget; give --budget, too.")
    if budget is not None:
        read_budget(budget)
        require_solver()
    widths, read = _widths(weight_bits), _widths(activation_bits or "")
    experiment = None if options.config is None else read_experiment(options.config)
    recipe = choose_recipe(options, experiment)
    inputs = Inputs.resolve(options, experiment, validation)
    inputs.named_data()
    with reporting(shown) as reporter:
        model = inputs.model()
        with reporter.phase("images"):
            measured_on = _images(inputs, evaluation_images, recipe.seed)
        if activation_bits is None and budget is not None:
            gathered = gather_inputs(measured_on["images"])
            read = widths_within(model, gathered, recipe, budget).get("activation", ())
        found = measure(
            model,
            recipe=recipe,
            granularity=granularity,
            after=after,
            progress=reporter,
            memory=memory,
            weight_bits=widths,
            activation_bits=read,
            **measured_on,
        )
        chosen = None if budget is None else choose_bits(found, budget)
    if is_first():
        if output is not None:
            found.write(output)
        if write_widths is not None and chosen is not None:
            write_file(write_widths, chosen.to_yaml().encode(), RecipeError)
    if shown.as_json:
        console.print_json(found.to_json() if chosen is None else chosen.to_json())
        return
    show_sensitivity(console, found, chosen)
    if chosen is not None:
        show_choice(console, chosen)
        _say_next(chosen, write_widths)


def _say_next(chosen: "BitChoice", file: Path | None) -> None:
    if file is not None:
        say(console, f"next: mrecg quantize --widths {file} with the other options as here")


def _images(inputs: Inputs, labeled: int | None, seed: int) -> dict[str, Any]:
    """Return the images to measure on, with labels where so many are asked for."""
    if labeled is None:
        return {"images": inputs.calibration(seed)}
    import torch

    batches = inputs.evaluation(labeled)
    if batches is None:
        raise RecipeError(
            "--evaluation-images needs labeled images; leave it out, or name others with --validation."
        )
    parts = list(batches)
    return {
        "images": torch.cat([images for images, _ in parts]),
        "labels": torch.cat([labels for _, labels in parts]),
    }


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise RecipeError(
            f"The widths {quoted(text)} cannot be read, expected whole numbers such as 2,3,4,8."
        ) from error
