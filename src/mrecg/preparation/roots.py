"""Which quantizers are read by an operator that is undefined below zero, such as a root."""

import torch
from torch import fx

from mrecg.graph.layers import CONVOLUTIONS_AND_PRODUCTS

__all__ = ["feeds_root"]

_aten = torch.ops.aten
_ROOTS = frozenset(
    {
        _aten.sqrt.default,
        _aten.sqrt_.default,
        _aten.rsqrt.default,
        _aten.rsqrt_.default,
        _aten.log.default,
        _aten.log2.default,
        _aten.log10.default,
        _aten.pow.Tensor_Scalar,
        _aten.pow.Tensor_Tensor,
        _aten.pow_.Scalar,
    }
)
"""NaN or infinite for some number below zero."""


def feeds_root(marker: fx.Node) -> bool:
    """Return whether a root, a power or a logarithm reads what a marker returns, with no layer in between."""
    ahead, seen = [marker], {marker}
    while ahead:
        for user in ahead.pop().users:
            if user.target in _ROOTS:
                return True
            if user not in seen and user.target not in CONVOLUTIONS_AND_PRODUCTS:
                seen.add(user)
                ahead.append(user)
    return False
