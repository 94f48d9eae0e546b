"""A finished run, and its files changed as somebody could who recomputes every hash."""

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mrecg
import toys
from mrecg.records.record import Record
from mrecg.runs.files import with_hashes
from mrecg.runs.folder import QuantizedModel

OTHERS = ("recipe.yaml", "model.safetensors", "graph.json")
FILES = (*OTHERS, "record.json")


@cache
def quantized(toy: str = "chain") -> QuantizedModel:
    """A network rounded to nearest."""
    recipe = mrecg.preset("w4a4-rtn")
    return mrecg.quantize(toys.make(toy), toys.images(16), recipe=recipe)


def seal(folder: Path) -> None:
    """Make the record name the files as they are now."""
    record = Record.read(folder / "record.json")
    contents = {name: (folder / name).read_bytes() for name in OTHERS}
    (folder / "record.json").write_text(with_hashes(record, contents).to_json(), "utf-8")


def change_graph(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit the graph and seal the run."""
    graph = json.loads((folder / "graph.json").read_text("utf-8"))
    change(graph)
    (folder / "graph.json").write_text(json.dumps(graph), "utf-8")
    seal(folder)


def change_record(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit the record and its own hash."""
    record = json.loads((folder / "record.json").read_text("utf-8"))
    change(record)
    own = record["files"].pop("record.json")
    said = Record.model_validate_json(json.dumps(record)).to_given_json()
    record["files"]["record.json"] = hashlib.sha256(said.encode()).hexdigest()
    assert record["files"]["record.json"] != own
    (folder / "record.json").write_text(json.dumps(record), "utf-8")


def copy(source: Path, target: Path) -> Path:
    """A run folder of one's own."""
    return Path(shutil.copytree(source, target))


def operator(name: str, *args: object, **kwargs: object) -> Callable[[dict[str, Any]], None]:
    """Return a change of a stored graph: it calls an operator last."""

    def change(graph: dict[str, Any]) -> None:
        node = {"name": "planted", "operator": name, "args": args, "kwargs": kwargs}
        graph["nodes"].append(node)
        graph["output"] = {"node": "planted"}

    return change


def rename_tensor(graph: dict[str, Any], name: str) -> None:
    """Give the first tensor of a stored graph another name."""
    first = next(iter(graph["tensors"]))
    graph["tensors"][name] = graph["tensors"].pop(first)
    text = json.dumps(graph["nodes"])
    graph["nodes"] = json.loads(
        text.replace(json.dumps({"tensor": first}), json.dumps({"tensor": name}))
    )
