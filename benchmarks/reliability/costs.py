"""What reliability costs: checkpoints, the finite pass, and the clean-up of gradients, as parts of a run's time."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import mrecg
from benchmarks.performance.random_network import random_network
from mrecg import pipeline
from mrecg.runs.checkpoints import FolderCheckpoints

__all__ = ["CASES", "cost"]

CASES = (
    ("mobilenetv2_small", 100, 256),
    ("mobilenetv2_small", 500, 256),
    ("resnet18_small", 100, 256),
)
PARTS: dict[str, tuple[tuple[Any, str], ...]] = {
    "checkpoints": (
        (pipeline, "describe_inputs"),
        (FolderCheckpoints, "__init__"),
        (FolderCheckpoints, "keep_group"),
        (FolderCheckpoints, "keep_network"),
    ),
    "finite_pass": ((pipeline, "require_finite_activations"),),
    "gradient_clean_up": ((torch.Tensor, "nan_to_num_"),),
}


def cost(network: str, steps: int, images: int) -> dict[str, Any]:
    """Run once, and return the seconds of the whole and of each part."""
    model, calibration = random_network(network, 28, images)
    recipe = mrecg.preset("w2a4-qdrop-mrecg", {"reconstruct.steps": steps})
    seconds = dict.fromkeys(PARTS, 0.0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for part, functions in PARTS.items():
            for owner, name in functions:
                stack.enter_context(_timed(owner, name, part, seconds))
        started = time.perf_counter()
        mrecg.quantize(model, calibration, recipe=recipe, folder=folder / "run", progress=False)
        whole = time.perf_counter() - started
    return {
        "network": network,
        "steps": steps,
        "images": images,
        "seconds": whole,
        "parts": seconds,
    }


@contextmanager
def _timed(owner: Any, name: str, part: str, seconds: dict[str, float]) -> Iterator[None]:
    """Add the time that a function takes to that of a part."""
    function: Callable[..., Any] = getattr(owner, name)

    def timed(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            seconds[part] += time.perf_counter() - started

    with mock.patch.object(owner, name, timed):
        yield
