"""NNCF's post-training quantization of `float.onnx` at its defaults: 8 bits."""

import sys
from pathlib import Path

import nncf  # type: ignore[import-not-found]
import onnx
from onnx_files import calibration, report  # type: ignore[import-not-found]


def quantize(folder: Path) -> None:
    """Write `quantized.onnx`."""
    images = calibration(folder)
    dataset = nncf.Dataset(images, lambda image: {"images": image})
    model = nncf.quantize(onnx.load(folder / "float.onnx"), dataset, subset_size=len(images))
    onnx.save(model, folder / "quantized.onnx")


inputs = Path(sys.argv[1])
report(inputs, lambda: quantize(inputs))
