"""Options that several commands take; `None` leaves the choice to a configuration file, to the network or to the run."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import typer

from mrecg.config.presets import DEFAULT_PRESET, preset_names
from mrecg.config.targets import ACADEMIC, BACKENDS
from mrecg.config.texts import bytes_of

__all__ = [
    "After",
    "CalibrationOptions",
    "EvaluationImages",
    "ImageOptions",
    "Memory",
    "NetworkOptions",
    "OutputOptions",
    "Overrides",
    "ProgressOptions",
    "RecipeOptions",
    "RunFolder",
    "SizeBudget",
    "Workers",
    "names_starting",
    "worker_count",
]


def worker_count(asked: int | None) -> int:
    """Return how many processes decode images: by default one per core, four at most."""
    return min(4, os.cpu_count() or 1) if asked is None else asked


def names_starting(known: list[str]) -> Callable[[str], list[str]]:
    """Make a completion of names for a shell."""
    return lambda incomplete: [one for one in known if one.startswith(incomplete)]


RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting of the recipe (mrecg list settings)."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=256,
        metavar="N",
        help="Processes that decode images; by default one per core, four at most.",
    ),
]
EvaluationImages = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Use so many labeled images, spread evenly; by default all."
    ),
]
SizeBudget = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Spread widths over the layers within 3.5bits for a weight, 1.2MB of parameters or 0.5GBOPs.",
    ),
]
After = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Measure sensitivity after so many steps of each unit alone; 0 is rounding to nearest; "
        "with a budget, by default a tenth of the recipe's steps.",
    ),
]
Memory = Annotated[
    int | None,
    typer.Option(
        parser=bytes_of,
        metavar="SIZE",
        help="Memory for cached activations, such as 4GiB; the rest is kept in temporary files.",
    ),
]


@dataclass(frozen=True)
class OutputOptions:
    """Say how results are printed."""

    panel: ClassVar[str] = "Output"
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on standard output, for scripts.")
    ] = False


@dataclass(frozen=True)
class ProgressOptions(OutputOptions):
    """Say how much is shown on the way to results."""

    panel: ClassVar[str] = "Output"
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show results, warnings and errors only.")
    ] = False


@dataclass(frozen=True)
class ImageOptions:
    """Say where images come from and how they are read."""

    panel: ClassVar[str] = "Images"
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="demo, folder:PATH, imagenet:PATH, datasets:NAME, fashion-mnist[:PATH] or "
            "fashion-mnist-download:PATH. A saved run remembers its own.",
        ),
    ] = None
    size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Side of the images, cut from the center; by default the network's.",
        ),
    ] = None
    workers: Workers = None


@dataclass(frozen=True)
class RecipeOptions:
    """Change a recipe."""

    panel: ClassVar[str] = "Recipe"
    bits: Annotated[
        str | None, typer.Option(metavar="WIDTHS", help="Of weights and activations, such as w4a4.")
    ] = None
    steps: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Optimizer steps per group.")
    ] = None
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Of everything random.")] = (
        None
    )
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A target whose limits the result keeps (mrecg list backends).",
            autocompletion=names_starting([ACADEMIC, *BACKENDS]),
        ),
    ] = None
    schedule: Annotated[
        Literal["fast", "paper"] | None,
        typer.Option(help="Of a preset: fast, or the authors' steps and rates, which take hours."),
    ] = None
    overrides: Overrides = None


@dataclass(frozen=True)
class CalibrationOptions(ImageOptions):
    """Say which images calibrate, and how image files become inputs of the network."""

    panel: ClassVar[str] = "Images"
    images: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="How many calibration images; by default 256."),
    ] = None
    crops: Annotated[
        Literal["center", "random"] | None,
        typer.Option(help="Calibrate on center crops (default), or on random crops and flips."),
    ] = None
    channels: Annotated[
        int | None,
        typer.Option(
            min=1, max=3, metavar="N", help="3 for color, 1 for gray; by default the network's."
        ),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="M,M,M", help="Subtracted from pixels between 0 and 1; by default ImageNet's."
        ),
    ] = None
    std: Annotated[
        str | None, typer.Option(metavar="S,S,S", help="They are divided by it afterwards.")
    ] = None


@dataclass(frozen=True)
class NetworkOptions(RecipeOptions, CalibrationOptions):
    """Choose a network, its recipe and its calibration images."""

    panel: ClassVar[str] = "Network and method"
    network: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="One of mrecg list networks, timm:NAME, torchvision:NAME, onnx:FILE, or "
            "package.module:factory for yours.",
        ),
    ] = None
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A checkpoint: safetensors or torch.save."),
    ] = None
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"A method and its widths (mrecg list presets); by default {DEFAULT_PRESET}.",
            autocompletion=names_starting(preset_names()),
        ),
    ] = None
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A recipe file in place of a preset.")
    ] = None
    widths: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Widths of single layers, as mrecg sensitivity --budget writes them and people edit them.",
        ),
    ] = None
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file of MQBench or of the paper's code; other options win.",
        ),
    ] = None
