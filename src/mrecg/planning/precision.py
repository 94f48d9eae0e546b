"""In which precision a step multiplies."""

from collections.abc import Sequence
from typing import Literal

import torch

from mrecg.config.optimization import Precision
from mrecg.graph.units import Unit

__all__ = ["choose_precision"]

_BFLOAT16_PRODUCTS = ("avx512_bf16", "amx_bf16")
"""What torch calls a processor's instructions that multiply in bfloat16; without them it is emulated, which takes longer."""


def choose_precision(
    wanted: Precision | Literal["fastest", "auto"], units: Sequence[Unit], device: torch.device
) -> Precision:
    """Return the precision in which steps of some units multiply.

    `fastest` is bfloat16 where the processor multiplies in it and no convolution is grouped, as depthwise ones are, which take
    up to twice as long in it. `auto` is that of small images where the images have not decided yet (`fit_budget`).

    Args:
        wanted: the recipe's.
        units: that are optimized together.
        device: where they run.
    """
    if wanted == "auto":
        return "float32"
    if wanted != "fastest":
        return wanted
    grouped = any(layer.groups != "dense" for unit in units for layer in unit.layers)
    return "float32" if grouped or not _multiplies_bfloat16(device) else "bfloat16"


def _multiplies_bfloat16(device: torch.device) -> bool:
    found = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(found.get(name, False) for name in _BFLOAT16_PRODUCTS)
