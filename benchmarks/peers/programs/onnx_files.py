"""What programs of peers that quantize ONNX files share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from reporting import report  # type: ignore[import-not-found]

__all__ = ["report_file"]


def report_file(folder: Path, quantize: Callable[[], object]) -> None:
    """Let `quantize` write `quantized.onnx`, and report as `reporting.report` does."""

    def opened(_: object) -> Callable[[np.ndarray], np.ndarray]:
        session = onnxruntime.InferenceSession(folder / "quantized.onnx")
        return lambda images: session.run(None, {"images": images})[0]

    report(folder, quantize, opened)
