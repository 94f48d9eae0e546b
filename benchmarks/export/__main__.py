"""Exported files against the simulation, their size and their speed; cells that have a result are skipped.

python -m benchmarks.export measure               # the packaged network on the 2,000 packaged test images
python -m benchmarks.export measure --speed       # ResNet-18 at 224², random weights: only time and size matter
python -m benchmarks.export measure --bits w4a4 --layouts packed --placements academic tensorrt
python -m benchmarks.export render                # docs/export.md
"""

import argparse
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import mrecg.paper.networks
from benchmarks.commands import Command, rendering, run_command
from benchmarks.export.measure import Cell, measure, quantize
from benchmarks.export.render import export_store, write_export
from mrecg.data import CalibrationImages, calibration_images, evaluation_batches
from mrecg.demo import DEMO_NETWORK, demo_network

PLACEMENTS = ("academic", "onnxruntime", "openvino", "tensorrt", "xnnpack")
BITS = ("w8a8", "w4a8", "w4a4", "w3a3", "w2a4", "w2a2")
SPEED_NETWORK, SPEED_BITS, SPEED_PLACEMENTS = "resnet18", ("w8a8", "w4a8"), ("onnxruntime",)


def _configure(measuring: argparse.ArgumentParser) -> None:
    measuring.add_argument("--speed", action="store_true", help="ResNet-18 at 224²")
    measuring.add_argument("--bits", nargs="+", default=None)
    measuring.add_argument("--layouts", nargs="+", default=["int8", "packed"])
    measuring.add_argument("--placements", nargs="+", default=None)
    measuring.add_argument("--images", type=int, default=2000)
    measuring.add_argument("--repeats", type=int, default=30)


def _demo(count: int) -> tuple[nn.Module, CalibrationImages | Tensor, Tensor]:
    """Return the packaged network, calibration images, and so many test images."""
    images = torch.cat([batch for batch, _ in evaluation_batches("demo")])[:count]
    return demo_network(), calibration_images("demo", 256, seed=1005), images


def _random() -> tuple[nn.Module, CalibrationImages | Tensor, Tensor]:
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
    commands = (Command("measure", _configure, _measure), rendering("export.md", write_export))
    run_command(__doc__, commands, given)


if __name__ == "__main__":
    main()
