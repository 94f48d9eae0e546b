"""Deployment targets, as the settings that a recipe needs for them: current runtimes and the backends of MQBench.

Source of the latter: the parameter table and the quantizers of MQBench (`prepare_by_platform`, `custom_quantizer`). Widths are the
widest that the target's integers hold; a recipe may use fewer bits of them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mrecg.errors import RecipeError, did_you_mean, quoted

__all__ = ["ACADEMIC", "BACKENDS", "Backend", "find_backend"]

ACADEMIC = "academic"
"""No target: the placement that the papers simulate, at any width, symmetry and granularity."""


_FIXED_RANGES = {"weight.ranges.method": "minmax", "activation.ranges.method": "minmax"}
"""The range of a grid of logarithms follows from the largest element: there is nothing to search for."""


class Backend(NamedTuple):
    """Limits and settings of one target.

    Attributes:
        weight_bits, activation_bits: the widest codes.
        narrowest_bits: of codes.
        settings: the recipe's keys that the target decides, with their values.
    """

    weight_bits: int
    activation_bits: int
    narrowest_bits: int
    settings: Mapping[str, Any]


def _backend(
    *,
    weights: str,
    activations: str,
    tensors: str,
    bits: tuple[int, int] = (8, 8),
    narrowest_bits: int = 2,
    power_of_two: bool = False,
    logarithmic: bool = False,
    narrow: bool = False,
    unsigned: bool = False,
) -> Backend:
    """Return the target whose grids are described in words such as "symmetric per channel"."""
    return Backend(
        *bits,
        narrowest_bits,
        {
            "weight.symmetric": weights.startswith("symmetric"),
            "weight.narrow": narrow,
            "weight.power_of_two": power_of_two,
            "weight.logarithmic": logarithmic,
            "activation.symmetric": activations == "symmetric",
            "activation.narrow": narrow and activations == "symmetric",
            "activation.power_of_two": power_of_two,
            "activation.logarithmic": logarithmic,
            "activation.unsigned": unsigned,
            "placement.per_channel_weights": weights.endswith("per channel"),
            "placement.tensors": tensors,
            "placement.shortcut": "quantized",
            **(_FIXED_RANGES if logarithmic else {}),
        },
    )


BACKENDS: Mapping[str, Backend] = {
    "onnxruntime": _backend(
        weights="symmetric per channel", activations="affine", tensors="operands"
    ),
    # Before VNNI the product of x86 saturates at 8 × 8 bits.
    "onnxruntime_avx2": _backend(
        weights="symmetric per channel", activations="affine", tensors="operands", bits=(7, 8)
    ),
    "xnnpack": _backend(
        weights="symmetric per channel", activations="affine", tensors="all", narrow=True
    ),
    "qdq": _backend(
        weights="symmetric per channel", activations="symmetric", tensors="operands", narrow=True
    ),
    # ±127 on both sides; an addition runs in the accumulator of the convolution before it.
    "tensorrt": _backend(
        weights="symmetric per channel",
        activations="symmetric",
        tensors="fused-operands",
        narrow=True,
    ),
    # Weights use 7 of their 8 bits: the product of AVX2 and AVX-512 without VNNI saturates beyond.
    "openvino": _backend(
        weights="symmetric per channel",
        activations="symmetric",
        tensors="fused-operands",
        bits=(7, 8),
        unsigned=True,
    ),
    "snpe": _backend(weights="affine per tensor", activations="affine", tensors="all"),
    "pplw8a16": _backend(
        weights="affine per tensor", activations="affine", tensors="all", bits=(8, 16)
    ),
    "pplcuda": _backend(weights="affine per channel", activations="affine", tensors="all"),
    "vitis": _backend(
        weights="symmetric per tensor", activations="symmetric", tensors="all", power_of_two=True
    ),
    "onnx_qnn": _backend(weights="affine per tensor", activations="affine", tensors="all"),
    "tengine_u8": _backend(weights="affine per tensor", activations="affine", tensors="all"),
    "stpu": _backend(
        weights="symmetric per tensor", activations="symmetric", tensors="all", narrow=True
    ),
    # A sign and a logarithm of 7 bits, sixteen to an octave.
    "nnie": _backend(
        weights="symmetric per tensor",
        activations="symmetric",
        tensors="operands",
        narrowest_bits=8,
        logarithmic=True,
    ),
}


def find_backend(name: str) -> Backend:
    """Return the target called `name`, in lower case.

    Raises:
        RecipeError: there is none.
    """
    if name not in BACKENDS:
        raise RecipeError(
            f"There is no backend {quoted(name)}{did_you_mean(name, [ACADEMIC, *BACKENDS])}"
        )
    return BACKENDS[name]
