"""Codes at exactly their width: 3 bits take 3 bits."""

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

__all__ = ["pack", "unpack"]


def pack(codes: Integer[Tensor, "..."], low: int, high: int) -> Integer[Tensor, " bytes"]:
    """The codes one behind the other, the lowest bit of each first; the last byte is filled up with zeros.

    Args:
        codes: integers from `low` to `high`.
        low, high: of their grid; its width decides the bits of a code.
    """
    offsets = (codes.flatten().to(torch.int64) - low).numpy()
    width = (high - low).bit_length()
    bits = (offsets[:, None] >> np.arange(width)) & 1
    return torch.from_numpy(np.packbits(bits.astype(np.uint8), bitorder="little"))


def unpack(
    packed: Integer[Tensor, " bytes"],
    low: int,
    high: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> Integer[Tensor, "*shape"]:
    """What `pack` was given.

    Raises:
        ValueError: there are not as many bytes as the codes of that shape take.
    """
    width, count = (high - low).bit_length(), int(np.prod(shape))
    if packed.dtype != torch.uint8 or packed.numel() != -(-count * width // 8):
        raise ValueError(
            f"{packed.numel()} elements of {packed.dtype} hold no {count} codes of {width} bits"
        )
    bits = np.unpackbits(packed.numpy(), count=count * width, bitorder="little")
    offsets = bits.reshape(count, width).astype(np.int64) @ (1 << np.arange(width))
    return torch.from_numpy(offsets + low).to(dtype).reshape(shape)
