"""The formula of NNIE's logarithms, written out in Python's own floats."""

import math

import torch
from torch import Tensor

from mrecg.quantizers.logarithmic import Logarithms, logarithmic_scaling

CODES = torch.arange(-128.0, 128.0)
LARGEST = [1.0, 0.0371, 6.0, 250.3, 1e-6, 3e5]
"""Largest elements of tensors."""


def z_of(largest: float) -> int:
    return round(16 * math.log2(largest)) - 127


def formula(x: float, z: int) -> float:
    """MQBench's fake quantizer of one number."""
    if x > 2 ** ((z - 16) / 16):
        return 2 ** ((min(max(round(16 * math.log2(x) - z), 0), 127) + z) / 16)
    if x < -(2 ** ((z + 1 - 16) / 16)):
        return -(2 ** ((min(max(round(16 * math.log2(-x) - z), 1), 127) + z) / 16))
    return 0.0


def by_formula(x: Tensor, largest: float) -> Tensor:
    z = z_of(largest)
    return torch.tensor([formula(value, z) for value in x.flatten().tolist()]).view(x.shape)


def levels_for(largest: float) -> Logarithms:
    return Logarithms.of(logarithmic_scaling(torch.tensor(largest)))
