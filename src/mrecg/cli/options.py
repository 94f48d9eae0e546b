"""Options that several commands take; `None` leaves the choice to a configuration file or to the network."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from mrecg.errors import StorageError

__all__ = [
    "AsJson",
    "EvaluationImages",
    "ImageOptions",
    "Memory",
    "NetworkOptions",
    "Overrides",
    "RecipeOptions",
    "RunFolder",
    "Workers",
    "bytes_of",
    "worker_count",
]


def bytes_of(size: str) -> int:
    """Return the bytes of a size such as `4GiB` or `1.5 MB`.

    Raises:
        StorageError: it cannot be read.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i)?B?", size.strip(), re.IGNORECASE)
    if found is None:
        raise StorageError(
            f"The memory budget '{size}' cannot be read, expected a size such as 4GiB."
        )
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


def worker_count(asked: int | None) -> int:
    """Return how many processes decode images: by default one per core, four at most."""
    return min(4, os.cpu_count() or 1) if asked is None else asked


RunFolder = Annotated[Path, typer.Argument(help="The folder of a run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe setting.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0, help="Processes that decode images; by default one per core, four at most."
    ),
]
EvaluationImages = Annotated[
    int | None, typer.Option(min=1, help="Evaluate on so many images, spread evenly.")
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
class ImageOptions:
    """Say where images come from and how they are read."""

    data: Annotated[
        str | None,
        typer.Option(
            help="demo, fashion-mnist[:FOLDER], fashion-mnist-download:FOLDER, imagenet:PATH, "
            "folder:PATH or datasets:NAME_OR_PATH; by default fashion-mnist."
        ),
    ] = None
    size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Side of the images, cut from the center; by default the network's."
        ),
    ] = None
    workers: Workers = None


@dataclass(frozen=True)
class RecipeOptions:
    """Change a recipe."""

    backend: Annotated[
        str | None,
        typer.Option(help="A deployment target whose constraints the result must keep."),
    ] = None
    schedule: Annotated[
        Literal["fast", "paper"] | None,
        typer.Option(
            help="Of a preset: fast (the default), or paper, the authors' steps and rates, which take hours."
        ),
    ] = None
    overrides: Overrides = None


@dataclass(frozen=True)
class NetworkOptions(RecipeOptions, ImageOptions):
    """Choose a network, its recipe and its calibration images."""

    network: Annotated[
        str | None,
        typer.Option(
            help="One of mrecg's own, timm:NAME, torchvision:NAME, onnx:FILE or package.module:factory for yours."
        ),
    ] = None
    weights: Annotated[
        Path | None, typer.Option(help="A checkpoint of the network: safetensors or torch.save.")
    ] = None
    preset: Annotated[
        str | None,
        typer.Option(
            help="w{bits}a{bits}-{rtn|adaround|brecq|qdrop}[-mrecg]; by default w4a4-qdrop-mrecg."
        ),
    ] = None
    recipe: Annotated[Path | None, typer.Option(help="A recipe file in place of a preset.")] = None
    config: Annotated[
        Path | None,
        typer.Option(
            help="A configuration file of MQBench or of the paper's code; other options win."
        ),
    ] = None
    images: Annotated[
        int | None, typer.Option(min=1, help="How many calibration images; by default 256.")
    ] = None
    crops: Annotated[
        Literal["center", "random"] | None,
        typer.Option(
            help="Calibrate on center crops (the default), or on random resized crops and flips."
        ),
    ] = None
    channels: Annotated[
        int | None,
        typer.Option(min=1, max=3, help="3 for color, 1 for gray; by default the network's."),
    ] = None
