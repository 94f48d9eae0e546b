"""Accuracy against seconds, with other tools for post-training quantization, on the reference networks.

    python -m benchmarks.peers measure --reference ../shared/reference --environments /tmp/peers
    python -m benchmarks.peers measure --reference ../shared/reference --only ours
    python -m benchmarks.peers render                   # docs/peers.md

Peers run in virtual environments of their own, which are made in `--environments` and are no part of mrecg; all get the same 256
calibration images, the same float network (as a module or exported to ONNX), and one thread.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import mrecg
from benchmarks.accuracy.measure import answers, float_network, percent_equal
from benchmarks.commands import Command, rendering, run_command
from benchmarks.peers.environments import PEERS, Peer
from benchmarks.peers.render import peers_store, write_peers
from benchmarks.provenance import commit
from benchmarks.store import Result
from mrecg.data.fashion_mnist import DEBIAN_FOLDER, load_split
from mrecg.runs.folder import environment

IMAGES = 256
IMAGE_SEED = 1005
OURS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("w8a8-rtn", {}),
    ("w4a4-qdrop", {"reconstruct.steps": 125}),
    ("w2a4-qdrop", {"reconstruct.steps": 125}),
    ("w4a4-qronos", {}),
    ("w2a4-qronos", {}),
    ("w4a8-qronos", {}),
)
"""Presets, and what differs from them."""


def _configure(measuring: argparse.ArgumentParser) -> None:
    measuring.add_argument("--networks", nargs="+", default=["resnet18s", "mbv2s"])
    measuring.add_argument("--reference", type=Path, required=True, help="folder of the networks")
    measuring.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="Fashion-MNIST's files")
    measuring.add_argument(
        "--environments", type=Path, default=Path(tempfile.gettempdir()) / "peers"
    )
    measuring.add_argument(
        "--only", nargs="+", default=[], help="peers by package or name, or `ours`"
    )
    measuring.add_argument("--bits", nargs="+", default=[], help="widths, such as w4a4")


def _ours(
    bits: Sequence[str], model: nn.Module, images: Tensor, tested: Tensor
) -> Iterator[tuple[Result, Tensor]]:
    for preset, settings in OURS:
        if bits and preset.partition("-")[0] not in bits:
            continue
        recipe = mrecg.preset(preset, settings)
        started = time.process_time()
        quantized = mrecg.quantize(model, images, recipe=recipe)
        seconds = time.process_time() - started
        steps = f", {recipe.reconstruct.steps} steps" if recipe.reconstruct.steps else ""
        method = f"mrecg, {preset.partition('-')[2]}{steps}"
        found = {
            "tool": method,
            "bits": preset.partition("-")[0],
            "version": commit(),
            "environment": quantized.record.environment,
            "command": f"mrecg.quantize(model, images, recipe=preset({preset!r}, {settings}))",
            "seconds": seconds,
        }
        yield found, answers(quantized.model, tested).argmax(1)


def _theirs(peer: Peer, inputs: Path, environments: Path) -> tuple[Result, Tensor]:
    python = peer.installed(environments)
    command, seconds = peer.run(python, inputs)
    found = {
        "version": peer.version,
        "versions": peer.versions(python),
        "command": command,
        "seconds": seconds,
    }
    return found, torch.from_numpy(np.load(inputs / "answers.npy"))


def write_module(model: nn.Module, path: Path) -> None:
    """Write a network as a graph of torch's modules, which needs no class of ours to be read."""
    traced = torch.fx.symbolic_trace(model.eval())
    for node in traced.graph.nodes:
        node.type = None  # shapes in annotations are jaxtyping's, which peers lack
    traced.recompile()
    torch.save(traced, path)


def _write_inputs(model: nn.Module, images: Tensor, tested: Tensor, folder: Path) -> None:
    """Write the images for peers, and the float network as a graph and as an ONNX file: peers import nothing of ours."""
    np.save(folder / "calibration.npy", images.numpy())
    np.save(folder / "tested.npy", tested.numpy())
    write_module(model, folder / "float.pt")
    torch.onnx.export(
        model.eval(),
        (images[:2],),
        folder / "float.onnx",
        input_names=["images"],
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def asked_peers(only: Sequence[str], bits: Sequence[str]) -> list[Peer]:
    """Return the peers of some packages or names, all where none is named, at some widths."""
    return [
        peer
        for peer in PEERS
        if (not only or {peer.name, peer.name_of_package} & set(only))
        and (not bits or peer.bits in bits)
    ]


def _measure(arguments: argparse.Namespace) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    store = peers_store(arguments.results)
    train, _ = load_split("train", arguments.data)
    chosen = np.random.RandomState(IMAGE_SEED).permutation(len(train))[:IMAGES]
    images = train[torch.from_numpy(chosen)]
    tested, labels = load_split("test", arguments.data)

    def keep(network: str, found: Result, said: Tensor) -> None:
        top1 = percent_equal(said, labels)
        source = {"commit": commit(), "processor": environment(torch.device("cpu"))["processor"]}
        store.add({"network": network, "top1": top1, **source, **found})
        print(
            f"{network} {found['tool']} {found['bits']}: {top1}, {found['seconds']} s", flush=True
        )

    for network in arguments.networks:
        model = float_network(network, arguments.reference).eval()
        said = answers(model, tested).argmax(1)
        keep(network, {"tool": "float", "bits": "", "seconds": None}, said)
        if not arguments.only or "ours" in arguments.only:
            for found, said in _ours(arguments.bits, model, images, tested):
                keep(network, found, said)
        asked = asked_peers(arguments.only, arguments.bits)
        with tempfile.TemporaryDirectory() as folder:
            if asked:
                _write_inputs(model, images, tested, Path(folder))
            for peer in asked:
                found, said = _theirs(peer, Path(folder), arguments.environments)
                keep(network, {"tool": peer.name, "bits": peer.bits, **found}, said)


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    commands = (
        Command("measure", _configure, _measure),
        rendering("peers.md", write_peers),
    )
    run_command(__doc__, commands, given, threads=1)


if __name__ == "__main__":
    main()
