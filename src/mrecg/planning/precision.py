"""In which precision a step multiplies."""

from typing import Literal

import torch

from mrecg.config.optimization import Precision

__all__ = ["choose_precision"]

_BFLOAT16_PRODUCTS = ("avx512_bf16", "amx_bf16")
"""What torch calls a processor's instructions that multiply in bfloat16; without them it is emulated, which takes longer."""


def choose_precision(
    wanted: Precision | Literal["fastest", "auto"], device: torch.device
) -> Precision:
    """Return the precision in which steps multiply.

    `fastest` is bfloat16 where the processor multiplies in it. `auto` is that of small images where the images have not decided
    yet (`fit_budget`).

    Args:
        wanted: the recipe's.
        device: where the steps run.
    """
    if wanted == "auto":
        return "float32"
    if wanted != "fastest":
        return wanted
    return "bfloat16" if _multiplies_bfloat16(device) else "float32"


def _multiplies_bfloat16(device: torch.device) -> bool:
    found = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(found.get(name, False) for name in _BFLOAT16_PRODUCTS)
