"""Random dropping of quantization (QDrop: Wei et al., ICLR 2022)."""

import random

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

__all__ = ["RandomMask"]


class RandomMask:
    """Draw random masks at the price of a view: a pool is drawn once and read at random offsets.

    Drawing new numbers takes longer than the quantization that they mask. On a CUDA device, where reading memory takes most of the
    time, masks are booleans of a byte; on the CPU they are numbers, which its kernels multiply by.

    Args:
        keep_probability: how often an element is 1 (stays quantized); else it is 0 (float).
        seed: of the pool and of the offsets.
    """

    def __init__(self, keep_probability: float, seed: int) -> None:
        self.keep_probability = keep_probability
        self._generator = torch.Generator().manual_seed(seed)
        self._offsets = random.Random(seed)
        self._pool = torch.empty(0)
        self._held: list[Tensor] | None = None
        self._position = 0

    def like(self, x: Float[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """Return a mask of the shape and memory layout of `x`: 1 or true where an element stays quantized."""
        if self._held is None:
            return self._draw(x)
        if self._position == len(self._held):
            drawn = self._draw(x)
            self._held.append(torch.empty_like(x, dtype=drawn.dtype).copy_(drawn))
        self._position += 1
        return self._held[self._position - 1]

    def mix(
        self, of_float: Float[Tensor, "*shape"], quantized: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """Take each element of an input from either network (QDrop, eq. 8); may overwrite `of_float`."""
        mask = self.like(quantized)
        if mask.dtype == torch.bool:
            return torch.where(mask, quantized, of_float)
        return of_float.lerp_(quantized, mask)

    def hold(self) -> None:
        """Give every mask memory of its own from here on, which `redraw` fills anew: a CUDA graph reads fixed memory."""
        self._held = []

    def release(self) -> None:
        """Draw a new mask each time again, as before `hold`."""
        self._held, self._position = None, 0

    def redraw(self) -> None:
        """Draw new masks into the memory of those before, in the order in which they were asked for."""
        assert self._held is not None, "redraw needs hold first"
        for mask in self._held:
            mask.copy_(self._draw(mask))
        self._position = 0

    @staticmethod
    def pool_size(elements: int) -> int:
        """Return how many random numbers are drawn for tensors of up to `elements` elements."""
        return max(1 << 20, 4 * elements)

    def _draw(self, x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        dtype = torch.bool if x.is_cuda else x.dtype
        fits = self._pool.device == x.device and self._pool.dtype == dtype
        if len(self._pool) < 2 * x.numel() or not fits:
            drawn = torch.rand(self.pool_size(x.numel()), generator=self._generator)
            self._pool = (drawn < self.keep_probability).to(x.device, dtype)
        offset = self._offsets.randrange(len(self._pool) - x.numel())
        # A slice has strides beyond its own elements; the layout of a new tensor never has.
        return self._pool.as_strided(x.shape, torch.empty_like(x).stride(), offset)
