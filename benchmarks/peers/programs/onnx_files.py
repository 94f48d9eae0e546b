"""What programs of peers that quantize ONNX files share."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

__all__ = ["calibration", "report"]

AT_ONCE = 250
"""Images that the quantized file runs on at once."""


def calibration(folder: Path) -> list[np.ndarray]:
    """Return the calibration images, one by one."""
    images = np.load(folder / "calibration.npy")
    return list(np.split(images, len(images)))


def report(folder: Path, quantize: Callable[[], object]) -> None:
    """Quantize, print the CPU seconds, and write what `quantized.onnx` answers."""
    started = time.process_time()
    quantize()
    seconds = time.process_time() - started
    session = onnxruntime.InferenceSession(folder / "quantized.onnx")
    tested = np.load(folder / "tested.npy")
    parts = np.split(tested, range(AT_ONCE, len(tested), AT_ONCE))
    logits = [session.run(None, {"images": part})[0] for part in parts]
    np.save(folder / "answers.npy", np.concatenate(logits).argmax(1))
    print(json.dumps({"seconds": seconds}))
