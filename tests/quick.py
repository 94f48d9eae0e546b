"""Runs of a few steps."""

from torch import Tensor, nn

import mrecg
import toys
from mrecg.runs.folder import QuantizedModel

QUICK = {"reconstruct.steps": 8, "reconstruct.batch_size": 8}
GROUPS_ALONE = QUICK | {"network.steps": 0, "reconstruct.early_stop": False}
"""Every group takes all its steps, and nothing follows."""


def quick(name: str = "w2a4-qdrop", **overrides: object) -> mrecg.Recipe:
    """Return a preset with few steps; `__` in a name stands for a dot."""
    steps = {} if "rtn" in name or "qronos" in name else QUICK
    return mrecg.preset(name, steps | {k.replace("__", "."): v for k, v in overrides.items()})


def run(model: nn.Module, recipe: mrecg.Recipe, x: Tensor | None = None) -> QuantizedModel:
    """Quantize a toy."""
    return mrecg.quantize(model, toys.images(32) if x is None else x, recipe=recipe)
