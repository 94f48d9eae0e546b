"""An exported file against the simulation, its size and its speed."""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

import mrecg
from benchmarks.provenance import ONNX_PACKAGES, commit, versions
from mrecg.config.targets import ACADEMIC
from mrecg.data import CalibrationImages
from mrecg.export.onnx.layouts import Layout
from mrecg.export.onnx.verification import ideal_bytes

__all__ = ["Cell", "measure", "quantize"]


class Cell(NamedTuple):
    """Name one row of the table."""

    network: str
    bits: str
    placement: str
    layout: Layout


def quantize(
    cell: Cell, model: nn.Module, images: CalibrationImages | Tensor
) -> mrecg.QuantizedModel:
    """Round to nearest: what a file computes does not depend on how its roundings were chosen."""
    recipe = mrecg.preset(f"{cell.bits}-rtn")
    if cell.placement != ACADEMIC:
        recipe = recipe.for_backend(cell.placement)
    return mrecg.quantize(model, images, recipe=recipe)


def measure(
    cell: Cell, quantized: mrecg.QuantizedModel, images: Tensor, repeats: int
) -> dict[str, Any]:
    """Export, verify, and add up the bytes."""
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
        "environment": {**quantized.record.environment, **versions(ONNX_PACKAGES)},
    }
