"""torch operators `mrecg::fake_quantize` and `mrecg::soft_rounding`, each with its backward pass as another operator, and
`mrecg::grid_errors`, which has none.

The dispatcher chooses who computes: on the CPU the compiled kernels where they take the tensors, elsewhere torch's
operators. A forward pass returns its result and what its backward pass reads besides the arguments: `None` from a compiled
kernel, so that the same implementation computes both.

Defined by `torch.library.Library`: on the small tensors of a typical step, the Python wrappers of `torch.library.custom_op`
take longer than the kernels. The operators have no derivative of their own; `functions.py` has.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mrecg.quantizers.kernels import compilation, formulas, native
from mrecg.quantizers.kernels.strides import lie_in_rows

__all__ = ["NAMESPACE"]

NAMESPACE = "mrecg"

_QUANTIZE = "Tensor? keep, Tensor scale, float lowest, float highest, float floor, float ceiling"
_ROUND = "Tensor alpha, Tensor base, Tensor span, Tensor scale_delta, int levels"
_SCHEMAS = (
    f"fake_quantize(Tensor x, {_QUANTIZE}) -> (Tensor quantized, Tensor ratio, Tensor codes, Tensor clipped)",
    # values: x where nothing was saved, else `quantized`, so that x may be freed.
    "fake_quantize_backward(Tensor gradient, Tensor values, Tensor? ratio, Tensor? codes, Tensor? clipped, "
    f"Tensor unit, {_QUANTIZE}) -> (Tensor of_x, Tensor of_factor)",
    f"soft_rounding({_ROUND}) -> (Tensor soft, Tensor sigmoid, Tensor rounded)",
    *(
        f"soft_rounding_backward{overload}(Tensor gradient, Tensor? sigmoid, Tensor? rounded, {_ROUND}, "
        f"{kind} strength, {kind} exponent, bool learns_scale) -> (Tensor of_alpha, Tensor of_delta)"
        for overload, kind in (("", "float"), (".tensor", "Tensor"))
    ),
    "grid_errors(Tensor points, Tensor? counts, Tensor scale, Tensor zero_point, float lowest, float highest, "
    "float exponent) -> Tensor",
)


def _fake_quantize_on_cpu(x: Tensor, *rest: Any) -> formulas.Quantized:
    if compilation.fits(x):
        return native.fake_quantize(x, *rest), None, None, None
    return formulas.fake_quantize(x, *rest)


def _fake_quantize_without_values(x: Tensor, *rest: Any) -> formulas.Quantized:
    if compilation.fits(x):
        return torch.empty_like(x), None, None, None
    return formulas.fake_quantize(x, *rest)


def _fake_quantize_backward_on_cpu(
    gradient: Tensor,
    values: Tensor,
    ratio: Tensor | None,
    codes: Tensor | None,
    clipped: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor]:
    if ratio is None:
        return native.fake_quantize_backward(gradient, values, *rest)
    return formulas.fake_quantize_backward(gradient, values, ratio, codes, clipped, *rest)


def _fake_quantize_backward_without_values(
    gradient: Tensor,
    values: Tensor,
    ratio: Tensor | None,
    codes: Tensor | None,
    clipped: Tensor | None,
    unit: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor]:
    if ratio is None:
        return torch.empty_like(values), torch.empty_like(unit)
    return formulas.fake_quantize_backward(gradient, values, ratio, codes, clipped, unit, *rest)


def _soft_rounding_on_cpu(
    alpha: Tensor, base: Tensor, span: Tensor, scale_delta: Tensor, levels: int
) -> formulas.Rounded:
    if compilation.fits(alpha) and lie_in_rows(alpha, scale_delta):
        return native.soft_rounding(alpha, base, span, scale_delta, levels), None, None
    return formulas.soft_rounding(alpha, base, span, scale_delta, levels)


def _soft_rounding_without_values(
    alpha: Tensor, base: Tensor, span: Tensor, scale_delta: Tensor, levels: int
) -> formulas.Rounded:
    if compilation.fits(alpha) and lie_in_rows(alpha, scale_delta):
        return torch.empty_like(alpha), None, None
    return formulas.soft_rounding(alpha, base, span, scale_delta, levels)


def _soft_rounding_backward(
    gradient: Tensor, sigmoid: Tensor, rounded: Tensor, alpha: Tensor, base: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    return formulas.soft_rounding_backward(gradient, sigmoid, rounded, *rest)


def _soft_rounding_backward_on_cpu(
    gradient: Tensor, sigmoid: Tensor | None, rounded: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    if sigmoid is None or rounded is None:
        return native.soft_rounding_backward(gradient, *rest)
    return _soft_rounding_backward(gradient, sigmoid, rounded, *rest)


def _soft_rounding_backward_without_values(
    gradient: Tensor,
    sigmoid: Tensor | None,
    rounded: Tensor | None,
    alpha: Tensor,
    base: Tensor,
    span: Tensor,
    scale_delta: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor]:
    if sigmoid is None or rounded is None:
        return torch.empty_like(alpha), torch.empty_like(scale_delta)
    return formulas.soft_rounding_backward(gradient, sigmoid, rounded, span, scale_delta, *rest)


def _grid_errors_on_cpu(points: Tensor, *rest: Any) -> Tensor:
    if compilation.fits(points):
        return native.grid_errors(points, *rest)
    return formulas.grid_errors(points, *rest)


def _grid_errors_without_values(
    points: Tensor, counts: Tensor | None, scale: Tensor, *rest: Any
) -> Tensor:
    return torch.empty_like(scale)


_of_soft_rounding_backward = (
    _soft_rounding_backward,
    _soft_rounding_backward_on_cpu,
    _soft_rounding_backward_without_values,
)
_IMPLEMENTATIONS: dict[str, tuple[Callable[..., Any], ...]] = {
    # operator: for any device, for the CPU, for tensors without values
    "fake_quantize": (
        formulas.fake_quantize,
        _fake_quantize_on_cpu,
        _fake_quantize_without_values,
    ),
    "fake_quantize_backward": (
        formulas.fake_quantize_backward,
        _fake_quantize_backward_on_cpu,
        _fake_quantize_backward_without_values,
    ),
    "soft_rounding": (
        formulas.soft_rounding,
        _soft_rounding_on_cpu,
        _soft_rounding_without_values,
    ),
    "soft_rounding_backward": _of_soft_rounding_backward,
    "soft_rounding_backward.tensor": _of_soft_rounding_backward,
    "grid_errors": (formulas.grid_errors, _grid_errors_on_cpu, _grid_errors_without_values),
}


def _defined() -> torch.library.Library:
    library = torch.library.Library(NAMESPACE, "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    for name, (anywhere, on_cpu, without_values) in _IMPLEMENTATIONS.items():
        library.impl(name, anywhere, "CompositeExplicitAutograd")
        library.impl(name, on_cpu, "CPU")
        # The derivative is `functions.py`'s: without these keys a call takes a microsecond less.
        library.impl(name, torch.library.fallthrough_kernel, "Autograd")
        library.impl(name, torch.library.fallthrough_kernel, "ADInplaceOrView")
        torch.library.register_fake(f"{NAMESPACE}::{name}", without_values, lib=library)
    return library


_LIBRARY = _defined()
"""The operators exist as long as it does."""
