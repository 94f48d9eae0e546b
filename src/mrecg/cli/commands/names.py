"""The command that lists what can be named: list."""

import textwrap
from collections.abc import Mapping
from typing import Annotated, Literal

import typer
import yaml
from rich.markup import escape
from rich.table import Table

from mrecg.cli.consoles import console, say
from mrecg.cli.option_groups import command
from mrecg.cli.options import OutputOptions
from mrecg.config.descriptions import described_settings
from mrecg.config.presets import DEFAULT_PRESET, METHODS, preset, preset_names
from mrecg.config.targets import ACADEMIC, BACKENDS

__all__ = ["list_"]


@command
def list_(
    kind: Annotated[
        Literal["networks", "backends", "presets", "settings"],
        typer.Argument(metavar="KIND", help="networks, backends, presets or settings."),
    ],
    output: OutputOptions,
) -> None:
    """List the names that options take: networks, backends, presets, or the settings of a recipe.

    Example: mrecg list settings
    """
    if kind == "settings":
        _show_settings(output.as_json)
        return
    listed = {"networks": _networks, "backends": _backends, "presets": _presets}[kind]()
    if output.as_json:
        console.print_json(data=listed)
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, meaning in listed.items():
        table.add_row(escape(name), escape(meaning))
    console.print(table)


def _networks() -> Mapping[str, str]:
    from mrecg.paper.networks import NETWORKS

    own = {
        name: f"{one.num_classes} classes, images of {one.preprocessing.channels}×"
        f"{one.preprocessing.crop}×{one.preprocessing.crop}"
        for name, one in NETWORKS.items()
    }
    return own | {
        "timm:NAME": "one of timm's",
        "torchvision:NAME": "one of torchvision's classifiers",
        "package.module:factory": "what your function returns",
        "onnx:FILE": "what a float ONNX file computes",
    }


def _backends() -> Mapping[str, str]:
    limits = {
        name: f"weights to {one.weight_bits} bits, activations to {one.activation_bits}"
        for name, one in BACKENDS.items()
    }
    return {ACADEMIC: "no target: what the papers simulate, any widths"} | limits


def _presets() -> Mapping[str, str]:
    meanings = {
        "rtn": "round to nearest",
        "qronos": "rounding in closed form, layer by layer, without steps",
        "adaround": "learned rounding, layer by layer",
        "brecq": "learned rounding, block by block",
        "qdrop": "the same with random dropping of activation quantizers",
    }
    assert set(meanings) == set(METHODS)
    listed = {}
    for name in preset_names():
        method, joined = name.partition("-")[2].removesuffix("-mrecg"), name.endswith("-mrecg")
        listed[name] = meanings[method] + (", neighbors joined where it helps" if joined else "")
    return listed | {"w{bits}a{bits}-…": "any of these at 2 to 8 bits"}


def _show_settings(as_json: bool) -> None:
    """Print every setting with its value in the default recipe and its meaning."""
    found = described_settings(preset(DEFAULT_PRESET))
    if as_json:
        data = {key: one._asdict() for key, one in found.items()}
        console.print_json(data=data)
        return
    for key, (value, meaning) in found.items():
        say(console, f"{key} = {_as_yaml(value)}")
        say(console, textwrap.indent(textwrap.fill(meaning, console.width - 4), "    "))


def _as_yaml(value: object) -> str:
    """Return a value as `--set` takes it."""
    listed = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(listed, default_flow_style=True, width=1000).removesuffix("...\n").strip()
