"""Memory order of tensors, which element-wise kernels read from one end to the other."""

import torch
from torch import Tensor

__all__ = ["lie_in_rows", "match_strides"]


def match_strides(tensor: Tensor, model: Tensor) -> Tensor:
    """Return `tensor` with its values in the memory order of `model`, which is dense; itself where it has that order."""
    if tensor.stride() == model.stride():
        return tensor
    strides = zip(tensor.shape, tensor.stride(), model.stride(), strict=True)
    if all(size == 1 or own == other for size, own, other in strides):
        return tensor  # the stride of an axis of size 1 is never used
    return torch.empty_like(model).copy_(tensor)


def lie_in_rows(weight: Tensor, scale_delta: Tensor) -> bool:
    """Return whether axis 0 of a dense weight is outermost in memory, and its scale deltas are one, or one per row."""
    rows = len(weight)
    if rows == 0 or weight.stride(0) * rows != weight.numel() or not scale_delta.is_contiguous():
        return False
    return scale_delta.numel() == 1 or scale_delta.numel() == len(scale_delta) == rows
