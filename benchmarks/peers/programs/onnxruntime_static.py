"""ONNX Runtime's static quantization of `float.onnx`: 8 bits, per channel, ranges by extremes."""

import sys
from pathlib import Path
from typing import Any

from onnx_files import report_file  # type: ignore[import-not-found]
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from reporting import calibration  # type: ignore[import-not-found]


class Reader(CalibrationDataReader):
    """Gives the calibration images, one by one."""

    def __init__(self, folder: Path) -> None:
        self.images = iter(calibration(folder, at_once=1))

    def get_next(self) -> dict[str, Any] | None:
        """Return the next image."""
        image = next(self.images, None)
        return None if image is None else {"images": image}


def quantize(folder: Path) -> None:
    """Write `quantized.onnx`."""
    prepared = folder / "prepared.onnx"
    quant_pre_process(folder / "float.onnx", prepared, skip_symbolic_shape=True)
    quantize_static(prepared, folder / "quantized.onnx", Reader(folder), per_channel=True)


inputs = Path(sys.argv[1])
report_file(inputs, lambda: quantize(inputs))
