"""Codes at exactly their width: 3 bits take 3 bits."""

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

__all__ = ["pack", "unpack"]

_AT_ONCE = 1 << 18
"""Codes in a portion, which takes many times their memory; a multiple of 8, so that portions end with whole bytes."""


def pack(codes: Integer[Tensor, "..."], low: int, high: int) -> Integer[Tensor, " bytes"]:
    """Return the codes one behind the other, the lowest bit of each first; the last byte is filled up with zeros.

    Args:
        codes: integers from `low` to `high`.
        low, high: of their grid; its width decides the bits of a code.
    """
    width = (high - low).bit_length()
    portions = []
    for part in codes.flatten().split(_AT_ONCE):
        offsets = (part.to(torch.int64) - low).numpy()
        bits = (offsets[:, None] >> np.arange(width)) & 1
        portions.append(torch.from_numpy(np.packbits(bits.astype(np.uint8), bitorder="little")))
    return torch.cat(portions)


def unpack(
    packed: Integer[Tensor, " bytes"],
    low: int,
    high: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> Integer[Tensor, "*shape"]:
    """Return the codes that `pack` was given.

    Raises:
        ValueError: there are not as many bytes as the codes of that shape take.
    """
    width, count = (high - low).bit_length(), int(np.prod(shape))
    if packed.dtype != torch.uint8 or packed.numel() != -(-count * width // 8):
        raise ValueError(
            f"{packed.numel()} elements of {packed.dtype} hold no {count} codes of {width} bits"
        )
    codes = torch.empty(count, dtype=dtype)
    portions = packed.split(_AT_ONCE // 8 * width)
    for part, source in zip(codes.split(_AT_ONCE), portions, strict=True):
        bits = np.unpackbits(source.numpy(), count=len(part) * width, bitorder="little")
        offsets = bits.reshape(-1, width).astype(np.int64) @ (1 << np.arange(width))
        part.copy_(torch.from_numpy(offsets + low))
    return codes.reshape(shape)
