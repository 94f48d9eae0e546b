"""Exported files against the simulation, their size and their speed; one JSON file per cell, finished cells are skipped.

python benchmarks/export.py                       # the packaged network on the 2,000 packaged test images
python benchmarks/export.py --speed               # ResNet-18 at 224², random weights: only time and size matter
python benchmarks/export.py --bits w4a4 --layouts packed --placements academic tensorrt
"""

import argparse
import itertools
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import mrecg
import mrecg.paper.networks
from accuracy import commit
from mrecg.config.targets import ACADEMIC
from mrecg.data import calibration_images, evaluation_batches
from mrecg.demo import DEMO_NETWORK, demo_network
from mrecg.export.onnx.layouts import Layout
from mrecg.export.onnx.verification import ideal_bytes
from mrecg.runs.folder import QuantizedModel

HERE = Path(__file__).parent
PLACEMENTS = ("academic", "onnxruntime", "openvino", "tensorrt", "xnnpack")
BITS = ("w8a8", "w4a8", "w4a4", "w3a3", "w2a4", "w2a2")
PACKAGES = ("onnx", "onnxruntime", "onnxscript")


class Cell(NamedTuple):
    """One row of the table."""

    network: str
    bits: str
    placement: str
    layout: Layout

    @property
    def file(self) -> str:
        return "-".join(self) + ".json"


def quantize(cell: Cell, model: nn.Module, images: Tensor) -> QuantizedModel:
    """To nearest: what a file computes does not depend on how its roundings were chosen."""
    recipe = mrecg.preset(f"{cell.bits}-rtn")
    if cell.placement != ACADEMIC:
        recipe = recipe.for_backend(cell.placement)
    return mrecg.quantize(model, images, recipe=recipe)


def run_cell(
    cell: Cell, quantized: QuantizedModel, images: Tensor, repeats: int
) -> dict[str, object]:
    """Export, verify, weigh."""
    with tempfile.TemporaryDirectory() as scratch:
        path = mrecg.export_onnx(quantized, Path(scratch) / "model.onnx", cell.layout)
        found = mrecg.verify_onnx(quantized, path, images, repeats)
        folder = quantized.save(Path(scratch) / "run")
        sizes = {item.name: item.stat().st_size for item in folder.iterdir()}
    return {
        **cell._asdict(),
        "verification": found.model_dump(mode="json"),
        "run_folder": sizes,
        "ideal_bytes": ideal_bytes(quantized),
        "commit": commit(),
        "environment": dict(quantized.record.environment)
        | {name: version(name) for name in PACKAGES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speed", action="store_true", help="ResNet-18 at 224²")
    parser.add_argument("--bits", nargs="+", default=None)
    parser.add_argument("--layouts", nargs="+", default=["int8", "packed"])
    parser.add_argument("--placements", nargs="+", default=None)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "export")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    network = "resnet18" if arguments.speed else DEMO_NETWORK
    bits = arguments.bits or (("w8a8", "w4a8") if arguments.speed else BITS)
    placements = arguments.placements or (("onnxruntime",) if arguments.speed else PLACEMENTS)
    if arguments.speed:
        torch.manual_seed(0)
        model, images = mrecg.paper.networks.build("resnet18"), torch.randn(16, 3, 224, 224)
        calibration = images[:8]
    else:
        model, calibration = demo_network(), calibration_images("demo", 256, seed=1005)
        batches = [batch for batch, _ in evaluation_batches("demo")]
        images = torch.cat(batches)[: arguments.images]
    for width, placement in itertools.product(bits, placements):
        cells = [Cell(network, width, placement, layout) for layout in arguments.layouts]
        missing = [cell for cell in cells if not (arguments.output / cell.file).exists()]
        quantized = quantize(missing[0], model, calibration) if missing else None
        for cell in missing:
            assert quantized is not None
            result = run_cell(cell, quantized, images, arguments.repeats)
            (arguments.output / cell.file).write_text(json.dumps(result, indent=1) + "\n")
            print(cell.file, flush=True)


if __name__ == "__main__":
    main()
