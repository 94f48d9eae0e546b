"""Values of an activation that are kept of many images: to find its range, and to describe it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["ActivationSample", "Distribution"]

_DESCRIBED = 1 << 14
"""Values that a description keeps, about."""


class ActivationSample:
    """Collects what one quantizer reads over many images, condensed to extremes and a subsample.

    Of every image the same positions are kept, so that it does not matter how images come in batches.

    Args:
        limit: how many values of each tensor and image are kept at most.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._parts: list[Tensor] = []
        self._ends: list[Tensor] = []
        self._channels: list[tuple[int, Tensor]] = []

    def add(
        self,
        tensors: Sequence[Float[Tensor, "..."]],
        images: int,
        axes: Sequence[int | None] | None = None,
    ) -> None:
        """Take the values of some images into account; a tensor that does not start with them counts as one image.

        Args:
            tensors: the same ones in every call.
            images: how many.
            axes: of each tensor's channels, where it has some; without them no channel is looked at.
        """
        columns, ends = zip(*(self._condense(one.detach(), images) for one in tensors), strict=True)
        if len(columns) > 1:
            columns = (torch.cat([rows.expand(images, -1) for rows in columns], dim=1),)
            both = torch.stack([each.expand(images, -1) for each in ends])
            ends = (torch.stack([both[..., 0].amin(0), both[..., 1].amax(0)], dim=1),)
        self._parts.append(columns[0].clone())
        self._ends.append(ends[0])
        found = [
            _channels(tensor.detach(), axis)
            for tensor, axis in zip(tensors, axes or (), strict=axes is not None)
            if axis is not None and tensor.ndim > 1
        ]
        if found:
            self._channels.append((images, torch.cat(found, dim=1)))

    def _condense(self, values: Tensor, images: int) -> tuple[Tensor, Tensor]:
        """Return the subsample of every image, and its extremes."""
        if values.ndim == 4:
            values = values.permute(0, 2, 3, 1)  # the order in memory, so that nothing is copied
        rows = values.reshape(images if len(values) % images == 0 else 1, -1)
        # Two passes: on CPUs `aminmax` along an axis takes forty times as long.
        ends = torch.stack([rows.amin(dim=1), rows.amax(dim=1)], dim=1)
        if rows.shape[1] > self.limit:
            generator = torch.Generator().manual_seed(rows.shape[1])
            kept = torch.randint(rows.shape[1], (self.limit,), generator=generator)
            rows = rows.index_select(1, kept.to(rows.device))
        return rows, ends

    def rows(self) -> Float[Tensor, "images k"]:
        """Return the subsample, image by image."""
        return torch.cat(self._parts)

    def ends(self) -> Float[Tensor, "images 2"]:
        """Return the smallest and the largest value of every image."""
        return torch.cat(self._ends)

    def distribution(self) -> "Distribution":
        """Return what the record tells about the values; no range is found from it."""
        values = torch.cat([part.flatten() for part in self._parts])
        # Odd, so that it does not meet the same few columns of every row.
        values = values[:: (len(values) // _DESCRIBED) | 1]
        if not self._channels:
            empty = values[:0]
            return Distribution(values, empty, empty, empty)
        weights = values.new_tensor([images for images, _ in self._channels])
        found = torch.stack([each for _, each in self._channels])
        mean = (found[:, 2] * (weights / weights.sum())[:, None]).sum(0)
        return Distribution(values, found[:, 0].amin(0), found[:, 1].amax(0), mean)


class Distribution(NamedTuple):
    """How the values of an activation are spread in the float network, on the images of this process.

    Attributes:
        values: some of them.
        channel_low, channel_high, channel_mean: of each channel; empty where none was looked at.
    """

    values: Float[Tensor, " n"]
    channel_low: Float[Tensor, " c"]
    channel_high: Float[Tensor, " c"]
    channel_mean: Float[Tensor, " c"]


def _channels(values: Float[Tensor, "..."], axis: int) -> Float[Tensor, "3 c"]:
    """Return the smallest value, the largest and the mean of each channel."""
    others = [other for other in range(values.ndim) if other != axis % values.ndim]
    return torch.stack([values.amin(others), values.amax(others), values.mean(others)])
