"""Rounding in closed form: each column takes over what those before it lost (GPTQ: Frantar et al., ICLR 2023; Qronos: Zhang et al., 2025).

A layer multiplies a row w by what it reads: X in the float network, X̃ in the quantized one. ‖Xw − X̃q‖² is, up to a constant,
(q − w*)ᵀ H (q − w*) with H = X̃ᵀX̃ and w* = w + H⁻¹ X̃ᵀ(X − X̃)w. A column is rounded to nearest, and the columns after it take the
values that minimize the rest.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mrecg.quantizers.grid import Grid, Scaling

__all__ = ["DAMPING", "round_with_feedback"]

DAMPING = 0.01
"""Part of the mean of H's diagonal that is added to it, so that H has an inverse (GPTQ)."""
_BLOCK = 128
"""Columns whose errors reach the columns behind them in one product (GPTQ's lazy batches)."""


@torch.no_grad()
def round_with_feedback(
    weight: Float[Tensor, "g r k"],
    moments: Float[Tensor, "g k k"],
    shift: Float[Tensor, "g k r"],
    grid: Grid,
    scaling: Scaling,
) -> Float[Tensor, "g r k"]:
    """Return codes whose products with what the quantized network reads are near the float network's.

    Columns are rounded in the order of falling moments. The first of them is rounded where the others still have their float values,
    which is what distinguishes Qronos from GPTQ on w*; without a shift both are GPTQ. A row that would be further off than
    rounded to nearest is rounded to nearest.

    Args:
        weight: rows that read the same, for each group of a convolution; in double precision.
        moments: H, likewise.
        shift: X̃ᵀ(X − X̃)w of each row, likewise.
        grid: the integers that a code may take.
        scaling: of each element, or a single one of all.
    """
    damped = _damped(moments)
    order = damped.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    wanted = weight + torch.linalg.solve(damped, shift).mT
    damped = damped.gather(1, _rows(order, damped)).gather(2, _columns(order, damped))
    weight, wanted, first = (
        one.gather(2, _columns(order, weight)) for one in (weight, wanted, shift.mT)
    )
    if scaling.scale.numel() > 1:
        scaling = Scaling(*(one.gather(2, _columns(order, one)) for one in scaling))
    start = weight[:, :, 0] + first[:, :, 0] / damped[:, None, 0, 0]
    codes = _feedback(wanted, start, damped, grid, scaling)
    nearest = grid.quantize(weight, scaling)
    far, near = (_error(grid.dequantize(one, scaling) - wanted, damped) for one in (codes, nearest))
    codes = torch.where((far <= near)[..., None], codes, nearest)
    return torch.empty_like(codes).scatter_(2, _columns(order, codes), codes)


def _feedback(
    wanted: Float[Tensor, "g r k"],
    start: Float[Tensor, "g r"],
    damped: Float[Tensor, "g k k"],
    grid: Grid,
    scaling: Scaling,
) -> Float[Tensor, "g r k"]:
    """Round column after column; row i of the factor of H⁻¹ says how the error of column i moves those behind it."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor = torch.linalg.cholesky(inverse, upper=True)
    rest, codes = wanted.clone(), torch.empty_like(wanted)
    for begin in range(0, rest.shape[2], _BLOCK):
        end = min(begin + _BLOCK, rest.shape[2])
        errors = torch.empty_like(rest[:, :, begin:end])
        for column in range(begin, end):
            value = rest[:, :, column, None]
            of_column = scaling
            if scaling.scale.numel() > 1:
                of_column = Scaling(*(one[:, :, column, None] for one in scaling))
            code = grid.quantize(value if column else start[..., None], of_column)
            rounded = grid.dequantize(code, of_column)
            codes[:, :, column, None] = code
            error = (value - rounded) / factor[:, column, column, None, None]
            rest[:, :, column + 1 : end] -= error * factor[:, column, None, column + 1 : end]
            errors[:, :, column - begin, None] = error
        rest[:, :, end:] -= errors @ factor[:, begin:end, end:]
    return codes


def _damped(moments: Float[Tensor, "g k k"]) -> Float[Tensor, "g k k"]:
    mean = moments.diagonal(dim1=1, dim2=2).mean(1)
    # Where nothing but zeros is read, every code is as good as any.
    added = torch.where(mean > 0, DAMPING * mean, torch.ones_like(mean))
    return moments + added[:, None, None] * torch.eye(moments.shape[1]).to(moments)


def _error(
    difference: Float[Tensor, "g r k"], damped: Float[Tensor, "g k k"]
) -> Float[Tensor, "g r"]:
    return ((difference @ damped) * difference).sum(2)


def _columns(order: Int64[Tensor, "g k"], like: Tensor) -> Int64[Tensor, "g r k"]:
    return order[:, None, :].expand_as(like)


def _rows(order: Int64[Tensor, "g k"], like: Tensor) -> Int64[Tensor, "g k k"]:
    return order[:, :, None].expand_as(like)
