"""What all programs of peers share: the images, the clock and the answers. It needs numpy alone."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

__all__ = ["calibration", "report"]

AT_ONCE = 250
"""Images that the quantized network runs on at once."""

Quantized = TypeVar("Quantized")


def calibration(folder: Path, at_once: int) -> list[np.ndarray]:
    """Return the calibration images in batches."""
    images = np.load(folder / "calibration.npy")
    return np.split(images, range(at_once, len(images), at_once))


def report(
    folder: Path,
    quantize: Callable[[], Quantized],
    opened: Callable[[Quantized], Callable[[np.ndarray], np.ndarray]],
) -> None:
    """Quantize, write what the quantized network answers, and print the CPU seconds of the first.

    Args:
        folder: of the inputs; `answers.npy` is written there.
        quantize: returns the quantized network.
        opened: makes of it what gives the logits of a batch of images; no part of the seconds.
    """
    started = time.process_time()
    quantized = quantize()
    seconds = time.process_time() - started
    tested = np.load(folder / "tested.npy")
    parts = np.split(tested, range(AT_ONCE, len(tested), AT_ONCE))
    logits = map(opened(quantized), parts)
    np.save(folder / "answers.npy", np.concatenate(list(logits)).argmax(1))
    print(json.dumps({"seconds": seconds}))
