"""The command line: parse, call one library function, show progress, return an exit code.

Exit codes: 0 ok, 1 a mistake that the message explains in a sentence, 2 usage.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console

from mrecg.errors import MrecgError, RecipeError, StorageError
from mrecg.presets import preset
from mrecg.recipe import Recipe, read_recipe
from mrecg.record import Plan

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mrecg.data import Preprocessing

__all__ = ["app", "main"]

app = typer.Typer(
    help="Post-training quantization of vision models at 2 to 8 bits.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
error_console = Console(stderr=True)

Network = Annotated[
    str,
    typer.Option(
        help="A network of the zoo, timm:NAME, torchvision:NAME or package.module:factory for your own."
    ),
]
Weights = Annotated[
    Path | None, typer.Option(help="A checkpoint of the network: safetensors or torch.save.")
]
Data = Annotated[
    str,
    typer.Option(
        help="demo, fashion-mnist[:FOLDER], fashion-mnist-download:FOLDER or folder:PATH."
    ),
]
Images = Annotated[int, typer.Option(min=1, help="How many calibration images.")]
PresetName = Annotated[
    str, typer.Option("--preset", help="w{bits}a{bits}-{rtn|adaround|brecq|qdrop}[-mrecg].")
]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", help="A recipe file in place of a preset.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe setting.")
]
Size = Annotated[
    int, typer.Option(min=1, help="Side of the images of a folder, cut from the centre.")
]
Channels = Annotated[int, typer.Option(min=1, max=3, help="3 for colour, 1 for grey, in a folder.")]
Memory = Annotated[
    str | None,
    typer.Option(help="Memory for calibration values, such as 4GiB; the rest lies in files."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


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
    from mrecg.demo import run_demo
    from mrecg.presentation import Reporter, demo_as_json, show_demo
    from mrecg.runs import check_free

    if output is not None:
        check_free(output)
    with Reporter(error_console) as reporter:
        rows = run_demo(bits, steps, seed, reporter.named)
    if output is not None and rows[-1].quantized is not None:
        rows[-1].quantized.save(output)
    if as_json:
        console.print_json(data=demo_as_json(rows))
    else:
        show_demo(console, rows, output)


@app.command()
def quantize(
    output: Annotated[Path, typer.Option(help="A new folder for the run.")],
    network: Network,
    data: Data = "fashion-mnist",
    weights: Weights = None,
    preset_name: PresetName = "w4a4-qdrop-mrecg",
    recipe_file: RecipeFile = None,
    overrides: Overrides = None,
    plan_file: Annotated[Path | None, typer.Option("--plan", help="A plan file to follow.")] = None,
    images: Images = 256,
    size: Size = 224,
    channels: Channels = 3,
    memory: Memory = None,
    as_json: AsJson = False,
) -> None:
    """Quantize a network and save the run."""
    from mrecg.distributed import is_first
    from mrecg.pipeline import quantize as quantize_model
    from mrecg.presentation import Reporter, show_record
    from mrecg.runs import check_free

    check_free(output)
    budget = _bytes(memory)
    recipe = _recipe(preset_name, recipe_file, overrides)
    plan = None if plan_file is None else Plan.read(plan_file)
    model = _model(network, weights)
    calibration = _calibration(data, images, recipe, _preprocessing(size, channels))
    with Reporter(error_console) as reporter:
        quantized = quantize_model(
            model,
            calibration,
            recipe=recipe,
            plan=plan,
            progress=reporter,
            memory=budget,
            announce=reporter.announce,
        )
    if is_first():
        quantized.save(output)
    if as_json:
        console.print_json(quantized.record.to_json())
    else:
        show_record(console, quantized.record, output)


@app.command()
def plan(
    network: Network,
    data: Data = "fashion-mnist",
    weights: Weights = None,
    preset_name: PresetName = "w4a4-qdrop-mrecg",
    recipe_file: RecipeFile = None,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Write the plan into a JSON file.")] = None,
    images: Images = 256,
    size: Size = 224,
    channels: Channels = 3,
    as_json: AsJson = False,
) -> None:
    """Show which units would be reconstructed jointly, and why."""
    from mrecg.pipeline import make_model_plan
    from mrecg.presentation import Reporter, show_plan

    recipe = _recipe(preset_name, recipe_file, overrides)
    model = _model(network, weights)
    calibration = _calibration(data, images, recipe, _preprocessing(size, channels))
    with Reporter(error_console) as reporter:
        found = make_model_plan(model, calibration, recipe=recipe, progress=reporter)
    if output is not None:
        output.write_text(found.to_json(), encoding="utf-8")
    if as_json:
        console.print_json(found.to_json())
    else:
        show_plan(console, found)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    data: Data = "fashion-mnist",
    size: Size = 224,
    channels: Channels = 3,
    as_json: AsJson = False,
) -> None:
    """Count what a saved quantized model classifies correctly."""
    from mrecg.data import evaluation_batches
    from mrecg.distributed import local_device
    from mrecg.evaluation import evaluate as count
    from mrecg.runs import load

    quantized = load(run)
    batches = evaluation_batches(data, preprocessing=_preprocessing(size, channels))
    result = count(quantized.model.to(local_device()), batches)
    if as_json:
        console.print_json(data=asdict(result) | {"top1": result.top1, "top5": result.top5})
    else:
        console.print(
            f"top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} % of {result.count} images"
        )


def _recipe(preset_name: str, recipe_file: Path | None, overrides: list[str] | None) -> Recipe:
    changes: dict[str, Any] = {}
    for item in overrides or []:
        key, separator, value = item.partition("=")
        if not separator:
            raise RecipeError(f"The setting '{item}' has no value, expected KEY=VALUE.")
        try:
            changes[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RecipeError(f"The value of '{key}' cannot be read: {value}.") from error
    if recipe_file is not None:
        return read_recipe(recipe_file).override(changes)
    return preset(preset_name, changes)


def _model(name: str, weights: Path | None) -> "nn.Module":
    from mrecg.distributed import local_device
    from mrecg.zoo import has_own_factory, network

    model = network(name, weights).to(local_device())
    if weights is None and not has_own_factory(name):
        error_console.print(f"warning: {name} has random weights; give --weights", style="yellow")
    return model


def _preprocessing(size: int, channels: int) -> "Preprocessing":
    from mrecg.data import Preprocessing

    if channels == 1:
        return Preprocessing(round(size * 256 / 224), size, 1, (0.5,), (0.5,))
    return Preprocessing(round(size * 256 / 224), size)


def _calibration(
    data: str, images: int, recipe: Recipe, preprocessing: "Preprocessing"
) -> "Tensor":
    from mrecg.data import calibration_images

    return calibration_images(data, images, recipe.seed, preprocessing)


def _bytes(size: str | None) -> int | None:
    if size is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", size.strip(), re.IGNORECASE)
    if found is None:
        raise StorageError(
            f"The memory budget '{size}' cannot be read, expected a size such as 4GiB."
        )
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


@contextlib.contextmanager
def _processes() -> Iterator[None]:
    """Join what `torchrun` started; only the first process speaks, except about mistakes."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # asked here so that torch need not be imported
        yield
        return
    from mrecg.distributed import is_first, session

    with session():
        console.quiet = error_console.quiet = not is_first()
        try:
            yield
        finally:
            console.quiet = error_console.quiet = False


def main() -> None:
    """Run the command line; what mrecg raises on purpose becomes a sentence and exit code 1."""
    try:
        with _processes():
            app()
    except MrecgError as error:
        error_console.print(
            f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
