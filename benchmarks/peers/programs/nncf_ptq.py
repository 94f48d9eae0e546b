"""NNCF's post-training quantization of `float.onnx` at its defaults: 8 bits."""

import sys
from pathlib import Path

import nncf  # type: ignore[import-not-found]
import onnx
from onnx_files import report_file  # type: ignore[import-not-found]
from reporting import calibration  # type: ignore[import-not-found]


def quantize(folder: Path) -> None:
    """Write `quantized.onnx`."""
    images = calibration(folder, at_once=1)
    dataset = nncf.Dataset(images, lambda image: {"images": image})
    model = nncf.quantize(onnx.load(folder / "float.onnx"), dataset, subset_size=len(images))
    onnx.save(model, folder / "quantized.onnx")


inputs = Path(sys.argv[1])
report_file(inputs, lambda: quantize(inputs))
