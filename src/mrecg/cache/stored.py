"""Cached activations in memory or in a file, each image one contiguous row."""

import math
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from mrecg.errors import StorageError
from mrecg.planning.windows import Cut

__all__ = ["CachedActivation", "Chosen", "InMemory", "OnDisk", "copy_to_device"]

_LARGEST_HALF = 65504.0


class CachedActivation(ABC):
    """One activation of all calibration images, as rows of memory: an image is one contiguous row.

    Feature maps are stored channels last, in which convolutions are fastest, above all depthwise ones.

    Args:
        images: how many.
        shape: of one image's value.
        channels_last: how a row is laid out, if the value is a feature map.
        device: where batches go.
    """

    def __init__(
        self, images: int, shape: Sequence[int], channels_last: bool, device: torch.device
    ) -> None:
        self.shape = (images, *shape)
        self._device = device
        self._channels_last = channels_last and len(shape) == 3
        self._row = math.prod(shape)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    @abstractmethod
    def is_on_device(self) -> bool:
        """Return whether a batch is read where the units run, by numbers that are there: without the host."""

    def batch(self, chosen: Int64[Tensor, " b"], cut: Cut | None = None) -> Shaped[Tensor, "b ..."]:
        """Return the values of some images, on the device, in a tensor that is the caller's own.

        Args:
            chosen: the images' numbers, on the host or where the values are.
            cut: windows of these images' feature maps; without it whole maps are returned.
        """
        if cut is None:
            return self._as_batch(self._gather(chosen))
        return self._as_batch(self._gather_windows(chosen, cut), (cut.height, cut.width))

    def portion(self, first: int, last: int) -> Shaped[Tensor, "b ..."]:
        """Return the values of the images from `first` to before `last`, on the device; they must not be changed."""
        return self._as_batch(self._slice(first, last))

    def write(self, first: int, values: Shaped[Tensor, "b ..."]) -> None:
        """Store the values of some neighboring images."""
        if self._channels_last:
            values = values.permute(0, 2, 3, 1)
        self._put(first, values.detach().reshape(len(values), self._row))

    def _as_batch(self, rows: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        dtype = torch.float32 if rows.is_floating_point() else rows.dtype
        rows = rows.to(self._device, dtype, non_blocking=self._device.type == "cuda")
        shape = self.shape[1:] if size is None else (self.shape[1], *size)
        if self._channels_last:
            channels, height, width = shape
            return rows.view(-1, height, width, channels).permute(0, 3, 1, 2)
        values = rows.view(-1, *shape)
        return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values

    @abstractmethod
    def _gather(self, chosen: Tensor) -> Tensor: ...

    @abstractmethod
    def _gather_windows(self, chosen: Tensor, cut: Cut) -> Tensor: ...

    @abstractmethod
    def _slice(self, first: int, last: int) -> Tensor: ...

    @abstractmethod
    def _put(self, first: int, rows: Tensor) -> None: ...


@final
class InMemory(CachedActivation):
    """Rows in the memory of the device or of the host; from the latter batches travel while the device computes."""

    def __init__(
        self, rows: Tensor, shape: Sequence[int], channels_last: bool, device: torch.device
    ) -> None:
        super().__init__(len(rows), shape, channels_last, device)
        self._rows = rows
        self._pinned = device.type == "cuda" and not rows.is_cuda

    @property
    def is_on_device(self) -> bool:
        return self._rows.device == self._device

    def _gather(self, chosen: Tensor) -> Tensor:
        out = torch.empty(
            len(chosen),
            self._row,
            dtype=self._rows.dtype,
            device=self._rows.device,
            pin_memory=self._pinned,
        )
        return torch.index_select(self._rows, 0, copy_to_device(chosen, self._rows.device), out=out)

    def _gather_windows(self, chosen: Tensor, cut: Cut) -> Tensor:
        channels, height, width = self.shape[1:]
        # What is contiguous: all channels of a position, or a position of one plane.
        planes, depth = (1, channels) if self._channels_last else (channels, 1)
        plane = chosen[:, None] * planes + torch.arange(planes)
        row = plane[:, :, None] * height + (cut.top[:, None] + torch.arange(cut.height))[:, None]
        column = cut.left[:, None] + torch.arange(cut.width)
        index = copy_to_device(
            (row[..., None] * width + column[:, None, None]).flatten(), self._rows.device
        )
        found = self._rows.view(-1, depth).index_select(0, index).view(len(chosen), -1)
        return found.pin_memory() if self._pinned else found

    def _slice(self, first: int, last: int) -> Tensor:
        return self._rows[first:last]

    def _put(self, first: int, rows: Tensor) -> None:
        self._rows[first : first + len(rows)] = _to_dtype(rows, self._rows.dtype)


@final
class Chosen(CachedActivation):
    """Some rows of others, in the order of their numbers; they are read and not written."""

    def __init__(
        self, rows: InMemory, numbers: Tensor, channels_last: bool, device: torch.device
    ) -> None:
        super().__init__(len(numbers), rows.shape[1:], channels_last, device)
        self._rows, self._numbers = rows, numbers

    @property
    def is_on_device(self) -> bool:
        return False  # its numbers are on the host

    def _gather(self, chosen: Tensor) -> Tensor:
        return self._rows._gather(self._numbers[chosen])

    def _gather_windows(self, chosen: Tensor, cut: Cut) -> Tensor:
        return self._rows._gather_windows(self._numbers[chosen], cut)

    def _slice(self, first: int, last: int) -> Tensor:
        return self._rows._gather(self._numbers[first:last])

    def _put(self, first: int, rows: Tensor) -> None:
        raise AssertionError("the images are the caller's")


@final
class OnDisk(CachedActivation):
    """Rows in a file without a name, so that whatever ends the process removes it.

    The file is read, not mapped (`numpy.memmap`): the pages of a mapping count as resident memory of the process, and the
    file exists to keep that within the budget.
    """

    def __init__(
        self, images: int, shape: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(images, shape, True, device)
        self._dtype = dtype
        self._row_bytes = self._row * dtype.itemsize
        try:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (closed with the value)
        except OSError as error:
            raise _disk_full(error) from error
        weakref.finalize(self, self._file.close)

    @property
    def is_on_device(self) -> bool:
        return False

    def _gather(self, chosen: Tensor) -> Tensor:
        rows = self._empty(len(chosen))
        for row, index in zip(rows, chosen.tolist(), strict=True):
            self._read(row, index)
        return rows

    def _gather_windows(self, chosen: Tensor, cut: Cut) -> Tensor:
        channels, height, width = self.shape[1:]
        line = width * channels
        found = torch.empty(len(chosen), cut.height, cut.width, channels, dtype=self._dtype)
        lines = torch.empty(cut.height, line, dtype=self._dtype)
        places = zip(found, chosen.tolist(), cut.top.tolist(), cut.left.tolist(), strict=True)
        for window, index, top, left in places:
            self._read(lines, index * height + top, line * self._dtype.itemsize)
            window.copy_(lines.view(cut.height, width, channels)[:, left : left + cut.width])
        return found.flatten(1)

    def _slice(self, first: int, last: int) -> Tensor:
        return self._read(self._empty(last - first), first)

    def _put(self, first: int, rows: Tensor) -> None:
        data = _bytes(_to_dtype(rows, self._dtype).cpu().contiguous())
        try:
            self._file.seek(first * self._row_bytes)
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise _disk_full(error) from error

    def _read(self, rows: Tensor, first: int, size: int | None = None) -> Tensor:
        """Fill rows with those of the file from the `first` on, which have `size` bytes each."""
        data = _bytes(rows)
        self._file.seek(first * (size or self._row_bytes))
        while data:
            read = self._file.readinto(data)
            if not read:
                raise StorageError(
                    "A temporary file of cached activations is shorter than what was written to it; "
                    "something else has changed it."
                )
            data = data[read:]
        return rows

    def _empty(self, rows: int) -> Tensor:
        pinned = self._device.type == "cuda"
        return torch.empty(rows, self._row, dtype=self._dtype, pin_memory=pinned)


def copy_to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy values to a device; the host does not wait for the copy."""
    if device.type == "cuda" and not values.is_cuda:
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def _to_dtype(rows: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.float16:
        rows = rows.clamp(-_LARGEST_HALF, _LARGEST_HALF)
    return rows.to(dtype)


def _bytes(rows: Tensor) -> memoryview:
    return memoryview(rows.numpy().data).cast("B")


def _disk_full(error: OSError) -> StorageError:
    return StorageError(
        f"Cached activations that exceed the memory budget cannot be written to {tempfile.gettempdir()}: "
        f"{error.strerror}; set TMPDIR to a folder with room, or raise the budget."
    )
