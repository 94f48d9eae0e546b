"""Where cached activations are stored: on the device, in host memory or in files."""

import math
from collections.abc import Sequence
from typing import Literal, final

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from mrecg.cache.stored import CachedActivation, Chosen, InMemory, OnDisk
from mrecg.shortage import Shortages

__all__ = ["Place", "Storage"]

Place = Literal["device", "host", "file"]
_PLACES: tuple[Place, ...] = ("device", "host", "file")

_DEVICE_SHARE = 0.5
"""Of the GPU's free memory; the rest is for the optimization itself."""
_COPIED_AT_ONCE = 1 << 26
"""Bytes of images on their way to a device, whose layout is changed there."""


@final
class Storage:
    """Places every cached activation: on the device while it has room, on the host within the limit, then in files.

    Args:
        device: where the units run.
        limit: bytes of host memory that values may take, or of the device's own if that is the CPU; `None` is no limit.
        half: store in 16 bits, which halves everything and rounds values to 11 bits.
        shortages: are told where a place turns out to have no room.

    Attributes:
        held: bytes in each place now.
        shortages: those given.
    """

    def __init__(
        self,
        device: torch.device,
        limit: int | None = None,
        half: bool = False,
        shortages: Shortages | None = None,
    ) -> None:
        self.shortages = shortages or Shortages()
        self.held: dict[Place, int] = {"device": 0, "host": 0, "file": 0}
        self._device = device
        self._limit = limit
        self._dtype = torch.float16 if half else torch.float32
        self._places: dict[int, tuple[Place, int]] = {}

    def wrap(
        self, images: Shaped[Tensor, "n *shape"], numbers: Int64[Tensor, " some"] | None = None
    ) -> CachedActivation:
        """Return an input of the caller's, for all images or those with some numbers; it is not counted.

        It stays where it is, but for a copy on a CUDA device while that has room.
        """
        count, shape = len(images) if numbers is None else len(numbers), images.shape[1:]

        def make(place: Place) -> CachedActivation:
            if place == "device":
                rows = torch.empty(count, math.prod(shape), dtype=images.dtype, device=self._device)
                copied = InMemory(rows, shape, True, self._device)
                for first in range(0, count, at_once):
                    part = slice(first, first + at_once)
                    some = images[part if numbers is None else numbers[part]]
                    copied.write(first, some.to(self._device))
                return copied
            # With one channel both layouts are one, and only the right strides tell a convolution so.
            gray = shape[:1] == (1,)
            rows = images.contiguous().view(len(images), math.prod(shape))
            whole = InMemory(rows, shape, gray, self._device)
            return whole if numbers is None else Chosen(whole, numbers, gray, self._device)

        bytes_of_one = max(1, math.prod(shape) * images.itemsize)
        at_once = max(1, _COPIED_AT_ONCE // bytes_of_one)
        copies = images.device != self._device and self._place(count * bytes_of_one) == "device"
        places: tuple[Place, ...] = ("device", "host") if copies else ("host",)
        return self.shortages.first_that_fits(places, make, _moved)[1]

    def allocate(self, images: int, shape: Sequence[int]) -> CachedActivation:
        """Return room for one activation of all images; where memory runs out, on the host, or in a file.

        Raises:
            StorageError: a file cannot be made.
        """
        size = images * math.prod(shape) * self._dtype.itemsize

        def make(place: Place) -> CachedActivation:
            if place == "file":
                return OnDisk(images, shape, self._dtype, self._device)
            where = self._device if place == "device" else torch.device("cpu")
            rows = torch.empty(images, math.prod(shape), dtype=self._dtype, device=where)
            return InMemory(rows, shape, True, self._device)

        place, stored = self.shortages.first_that_fits(
            _PLACES[_PLACES.index(self._place(size)) :], make, _moved
        )
        self._places[id(stored)] = (place, size)
        self.held[place] += size
        return stored

    def release(self, stored: CachedActivation) -> None:
        """Release what is no longer needed; its memory goes with the last reference."""
        if id(stored) in self._places:
            place, size = self._places.pop(id(stored))
            self.held[place] -= size

    def _place(self, size: int) -> Place:
        if self._device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._device)
            if size <= _DEVICE_SHARE * free:
                return "device"
        return "host" if self._limit is None or self.held["host"] + size <= self._limit else "file"


def _moved(place: Place) -> str:
    where = "in files" if place == "file" else "on the host"
    return f"memory ran out: cached activations are {where}"
