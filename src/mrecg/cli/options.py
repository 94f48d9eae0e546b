"""Options that several commands take; `None` leaves the choice to a configuration file or to the network."""

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = [
    "AsJson",
    "Backend",
    "Channels",
    "Config",
    "Crops",
    "Data",
    "EvaluationImages",
    "Images",
    "Memory",
    "Network",
    "Overrides",
    "PresetName",
    "RecipeFile",
    "Size",
    "Weights",
    "Workers",
]

Config = Annotated[
    Path | None,
    typer.Option(help="A configuration file of MQBench or of the paper's code; other options win."),
]
Network = Annotated[
    str | None,
    typer.Option(
        help="A network of the zoo, timm:NAME, torchvision:NAME or package.module:factory for your own."
    ),
]
Weights = Annotated[
    Path | None, typer.Option(help="A checkpoint of the network: safetensors or torch.save.")
]
Data = Annotated[
    str | None,
    typer.Option(
        help="demo, fashion-mnist[:FOLDER], fashion-mnist-download:FOLDER, imagenet:PATH, folder:PATH "
        "or datasets:NAME_OR_PATH; by default fashion-mnist."
    ),
]
Images = Annotated[
    int | None, typer.Option(min=1, help="How many calibration images; by default 256.")
]
PresetName = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="w{bits}a{bits}-{rtn|adaround|brecq|qdrop}[-mrecg]; by default w4a4-qdrop-mrecg.",
    ),
]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", help="A recipe file in place of a preset.")
]
Backend = Annotated[
    str | None, typer.Option(help="A deployment target whose constraints the result must keep.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe setting.")
]
Size = Annotated[
    int | None,
    typer.Option(min=1, help="Side of the images, cut from the centre; by default the network's."),
]
Channels = Annotated[
    int | None,
    typer.Option(min=1, max=3, help="3 for colour, 1 for grey; by default the network's."),
]
Crops = Annotated[
    Literal["centre", "random"] | None,
    typer.Option(
        help="Calibrate on centre crops (the default), or on random resized crops and flips."
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(help="Memory for calibration values, such as 4GiB; the rest lies in files."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0, help="Processes that decode images; by default one per core, four at most."
    ),
]
EvaluationImages = Annotated[
    int | None,
    typer.Option(min=0, help="Evaluate on so many images, spread evenly; 0 measures nothing."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
