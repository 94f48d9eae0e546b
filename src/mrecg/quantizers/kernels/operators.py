"""torch operators `mrecg::fake_quantize` and `mrecg::soft_rounding`, each with its backward pass as another operator, and
`mrecg::grid_errors`, which has none.

Compiled kernels compute where they take the tensors, in C on a CPU and in Triton on a CUDA device, elsewhere torch's
operators. A forward pass returns its result and what its backward pass reads besides the arguments: `None` from a compiled
kernel, so that the same implementation computes both.

Defined by `torch.library.Library`: on the small tensors of a typical step, the Python wrappers of `torch.library.custom_op`
take longer than the kernels. The operators have no derivative of their own; `functions.py` has.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mrecg.quantizers.kernels import compilation, formulas, fused, native
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


def _compiled(tensor: Tensor) -> Any:
    """Return the module whose kernels take a tensor, or `None`."""
    if compilation.fits(tensor):
        return native
    return fused if fused.fits(tensor) else None


def _compiled_in_rows(alpha: Tensor, scale_delta: Tensor) -> Any:
    return _compiled(alpha) if lie_in_rows(alpha, scale_delta) else None


def _fake_quantize(x: Tensor, *rest: Any) -> formulas.Quantized:
    if (kernels := _compiled(x)) is not None:
        return kernels.fake_quantize(x, *rest), None, None, None
    return formulas.fake_quantize(x, *rest)


def _fake_quantize_without_values(x: Tensor, *rest: Any) -> formulas.Quantized:
    if _compiled(x) is not None:
        return torch.empty_like(x), None, None, None
    return formulas.fake_quantize(x, *rest)


def _fake_quantize_backward(
    gradient: Tensor,
    values: Tensor,
    ratio: Tensor | None,
    codes: Tensor | None,
    clipped: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor]:
    if ratio is None:
        of_x, of_factor = _compiled(values).fake_quantize_backward(gradient, values, *rest)
        return of_x, of_factor
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


def _soft_rounding(
    alpha: Tensor, base: Tensor, span: Tensor, scale_delta: Tensor, levels: int
) -> formulas.Rounded:
    if (kernels := _compiled_in_rows(alpha, scale_delta)) is not None:
        return kernels.soft_rounding(alpha, base, span, scale_delta, levels), None, None
    return formulas.soft_rounding(alpha, base, span, scale_delta, levels)


def _soft_rounding_without_values(
    alpha: Tensor, base: Tensor, span: Tensor, scale_delta: Tensor, levels: int
) -> formulas.Rounded:
    if _compiled_in_rows(alpha, scale_delta) is not None:
        return torch.empty_like(alpha), None, None
    return formulas.soft_rounding(alpha, base, span, scale_delta, levels)


def _soft_rounding_backward(
    gradient: Tensor,
    sigmoid: Tensor | None,
    rounded: Tensor | None,
    alpha: Tensor,
    base: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor]:
    if sigmoid is None or rounded is None:
        kernels = _compiled(alpha)
        of_alpha, of_delta = kernels.soft_rounding_backward(gradient, alpha, base, *rest)
        return of_alpha, of_delta
    return formulas.soft_rounding_backward(gradient, sigmoid, rounded, *rest)


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


def _grid_errors(points: Tensor, *rest: Any) -> Tensor:
    if compilation.fits(points):
        return native.grid_errors(points, *rest)
    return formulas.grid_errors(points, *rest)


def _grid_errors_without_values(
    points: Tensor, counts: Tensor | None, scale: Tensor, *rest: Any
) -> Tensor:
    return torch.empty_like(scale)


_OF_SOFT_ROUNDING_BACKWARD = (_soft_rounding_backward, _soft_rounding_backward_without_values)
_IMPLEMENTATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    # operator: for tensors with values, for those without
    "fake_quantize": (_fake_quantize, _fake_quantize_without_values),
    "fake_quantize_backward": (_fake_quantize_backward, _fake_quantize_backward_without_values),
    "soft_rounding": (_soft_rounding, _soft_rounding_without_values),
    "soft_rounding_backward": _OF_SOFT_ROUNDING_BACKWARD,
    "soft_rounding_backward.tensor": _OF_SOFT_ROUNDING_BACKWARD,
    "grid_errors": (_grid_errors, _grid_errors_without_values),
}


def _defined() -> torch.library.Library:
    library = torch.library.Library(NAMESPACE, "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    for name, (with_values, without_values) in _IMPLEMENTATIONS.items():
        library.impl(name, with_values, "CompositeExplicitAutograd")
        # The derivative is `functions.py`'s: without these keys a call takes a microsecond less.
        library.impl(name, torch.library.fallthrough_kernel, "Autograd")
        library.impl(name, torch.library.fallthrough_kernel, "ADInplaceOrView")
        torch.library.register_fake(f"{NAMESPACE}::{name}", without_values, lib=library)
    return library


_LIBRARY = _defined()
"""The operators exist as long as it does."""
