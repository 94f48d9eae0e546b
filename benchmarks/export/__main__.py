"""Exported files against the simulation, their size and their speed; cells that have a result are skipped.

python -m benchmarks.export measure               # the packaged network on the 2,000 packaged test images
python -m benchmarks.export measure --speed       # ResNet-18 at 224², random weights: only time and size matter
python -m benchmarks.export measure --bits w4a4 --layouts packed --placements academic tensorrt
python -m benchmarks.export render                # docs/export.md
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import mrecg.paper.networks
from benchmarks.export.measure import Cell, measure, quantize
from benchmarks.export.render import export_store, write_export
from benchmarks.store import RESULTS
from benchmarks.tables import DOCS
from mrecg.data import calibration_images, evaluation_batches
from mrecg.demo import DEMO_NETWORK, demo_network

PLACEMENTS = ("academic", "onnxruntime", "openvino", "tensorrt", "xnnpack")
BITS = ("w8a8", "w4a8", "w4a4", "w3a3", "w2a4", "w2a2")
SPEED_NETWORK, SPEED_BITS, SPEED_PLACEMENTS = "resnet18", ("w8a8", "w4a8"), ("onnxruntime",)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("--speed", action="store_true", help="ResNet-18 at 224²")
    measuring.add_argument("--bits", nargs="+", default=None)
    measuring.add_argument("--layouts", nargs="+", default=["int8", "packed"])
    measuring.add_argument("--placements", nargs="+", default=None)
    measuring.add_argument("--images", type=int, default=2000)
    measuring.add_argument("--repeats", type=int, default=30)
    commands.add_parser("render").add_argument("--docs", type=Path, default=DOCS)
    return parser


def _demo(count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return the packaged network, calibration images, and so many test images."""
    batches = [batch for batch, _ in evaluation_batches("demo")]
    return demo_network(), calibration_images("demo", 256, seed=1005), torch.cat(batches)[:count]


def _random() -> tuple[nn.Module, Tensor, Tensor]:
    """Return the network whose speed is measured, calibration images, and the images to compare on."""
    torch.manual_seed(0)
    model, images = mrecg.paper.networks.build(SPEED_NETWORK), torch.randn(16, 3, 224, 224)
    return model, images[:8], images


def _measure(arguments: argparse.Namespace) -> None:
    store = export_store(arguments.results)
    speed = arguments.speed
    network = SPEED_NETWORK if speed else DEMO_NETWORK
    bits = arguments.bits or (SPEED_BITS if speed else BITS)
    placements = arguments.placements or (SPEED_PLACEMENTS if speed else PLACEMENTS)
    model, calibration, images = _random() if speed else _demo(arguments.images)
    for width, placement in itertools.product(bits, placements):
        cells = [Cell(network, width, placement, layout) for layout in arguments.layouts]
        missing = [cell for cell in cells if cell._asdict() not in store]
        if not missing:
            continue
        quantized = quantize(missing[0], model, calibration)
        for cell in missing:
            store.add(measure(cell, quantized, images, arguments.repeats))
            print(" ".join(cell), flush=True)


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    arguments = _parser().parse_args(given)
    if arguments.command == "measure":
        _measure(arguments)
    else:
        page = arguments.docs / "export.md"
        print(f"{write_export(arguments.results, page)} results in {page}")


if __name__ == "__main__":
    main()
