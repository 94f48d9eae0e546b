"""Where the values of the calibration images lie between units: on the device, in host memory or in files."""

import math
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mrecg.errors import StorageError

__all__ = ["Place", "Storage", "Stored"]

Place = Literal["device", "host", "file"]

_DEVICE_SHARE = 0.5
"""Of the accelerator's free memory; the rest is for the tuning itself."""
_LARGEST_HALF = 65504.0


class Stored(ABC):
    """One value of all calibration images, as rows of memory: an image is one contiguous row.

    Feature maps lie channels last, in which convolutions are fastest, above all depthwise ones.

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

    def batch(self, chosen: Int64[Tensor, " b"]) -> Float[Tensor, "b ..."]:
        """The values of some images, on the device, in a tensor that is the caller's own."""
        return self._unfolded(self._gather(chosen))

    def portion(self, first: int, last: int) -> Float[Tensor, "b ..."]:
        """The values of the images from `first` to before `last`, on the device; not to be changed."""
        return self._unfolded(self._slice(first, last))

    def write(self, first: int, values: Float[Tensor, "b ..."]) -> None:
        """Store the values of some neighbouring images."""
        if self._channels_last:
            values = values.permute(0, 2, 3, 1)
        self._put(first, values.detach().reshape(len(values), self._row))

    def _unfolded(self, rows: Tensor) -> Tensor:
        rows = rows.to(self._device, torch.float32, non_blocking=True)
        if self._channels_last:
            channels, height, width = self.shape[1:]
            return rows.view(-1, height, width, channels).permute(0, 3, 1, 2)
        values = rows.view(-1, *self.shape[1:])
        return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values

    @abstractmethod
    def _gather(self, chosen: Tensor) -> Tensor: ...

    @abstractmethod
    def _slice(self, first: int, last: int) -> Tensor: ...

    @abstractmethod
    def _put(self, first: int, rows: Tensor) -> None: ...


@final
class _InMemory(Stored):
    """Rows in the memory of the device or of the host; from the latter batches travel while the device computes."""

    def __init__(
        self, rows: Tensor, shape: Sequence[int], channels_last: bool, device: torch.device
    ) -> None:
        super().__init__(len(rows), shape, channels_last, device)
        self._rows = rows
        self._pinned = device.type == "cuda" and not rows.is_cuda

    def _gather(self, chosen: Tensor) -> Tensor:
        out = torch.empty(
            len(chosen),
            self._row,
            dtype=self._rows.dtype,
            device=self._rows.device,
            pin_memory=self._pinned,
        )
        return torch.index_select(self._rows, 0, sent(chosen, self._rows.device), out=out)

    def _slice(self, first: int, last: int) -> Tensor:
        return self._rows[first:last]

    def _put(self, first: int, rows: Tensor) -> None:
        self._rows[first : first + len(rows)] = _narrowed(rows, self._rows.dtype)


@final
class _OnDisk(Stored):
    """Rows in a file that has no name, so that whatever ends the process removes it.

    It is read, not mapped: mapped pages would count as memory of the process.
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
            raise _no_room(error) from error
        weakref.finalize(self, self._file.close)

    def _gather(self, chosen: Tensor) -> Tensor:
        rows = self._empty(len(chosen))
        for row, index in zip(rows, chosen.tolist(), strict=True):
            self._read(row, index)
        return rows

    def _slice(self, first: int, last: int) -> Tensor:
        return self._read(self._empty(last - first), first)

    def _put(self, first: int, rows: Tensor) -> None:
        data = _bytes(_narrowed(rows, self._dtype).cpu().contiguous())
        try:
            self._file.seek(first * self._row_bytes)
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise _no_room(error) from error

    def _read(self, rows: Tensor, first: int) -> Tensor:
        data = _bytes(rows)
        self._file.seek(first * self._row_bytes)
        while data:
            read = self._file.readinto(data)
            if not read:
                raise StorageError(
                    "A temporary file of calibration values is shorter than what was written to it; "
                    "something else has changed it."
                )
            data = data[read:]
        return rows

    def _empty(self, rows: int) -> Tensor:
        pinned = self._device.type == "cuda"
        return torch.empty(rows, self._row, dtype=self._dtype, pin_memory=pinned)


@final
class Storage:
    """Gives every value its place: the device while it has room, the host within the limit, then files.

    Args:
        device: where the units run.
        limit: bytes of host memory that values may take, or of the device's own if that is the CPU; `None` is no limit.
        half: store in 16 bits, which halves everything and rounds values to 11 bits.

    Attributes:
        held: bytes in each place now.
        most: the largest number of bytes held in each place so far.
    """

    def __init__(self, device: torch.device, limit: int | None = None, half: bool = False) -> None:
        self.held: dict[Place, int] = {"device": 0, "host": 0, "file": 0}
        self.most = dict(self.held)
        self._device = device
        self._limit = limit
        self._dtype = torch.float16 if half else torch.float32
        self._places: dict[int, tuple[Place, int]] = {}

    @property
    def bytes_per_element(self) -> int:
        """Of a stored value."""
        return self._dtype.itemsize

    def overflow(self, size: int) -> int:
        """How many of `size` bytes would exceed the limit."""
        return 0 if self._limit is None else max(0, size - self._limit)

    def wrap(self, images: Float[Tensor, "n ..."]) -> Stored:
        """The caller's images where they are, not counted."""
        # With one channel both layouts are one, and only the right strides tell a convolution so.
        grey = images.shape[1] == 1
        return _InMemory(images.contiguous().flatten(1), images.shape[1:], grey, self._device)

    def allocate(self, images: int, shape: Sequence[int]) -> Stored:
        """Room for one value of all images.

        Raises:
            StorageError: a file cannot be made.
        """
        size = images * math.prod(shape) * self._dtype.itemsize
        place = self._place(size)
        stored: Stored
        if place == "file":
            stored = _OnDisk(images, shape, self._dtype, self._device)
        else:
            where = self._device if place == "device" else torch.device("cpu")
            rows = torch.empty(images, math.prod(shape), dtype=self._dtype, device=where)
            stored = _InMemory(rows, shape, True, self._device)
        self._places[id(stored)] = (place, size)
        self.held[place] += size
        self.most[place] = max(self.most[place], self.held[place])
        return stored

    def release(self, stored: Stored) -> None:
        """Note that a value is no longer needed; its memory goes with the last reference."""
        if id(stored) in self._places:
            place, size = self._places.pop(id(stored))
            self.held[place] -= size

    def _place(self, size: int) -> Place:
        if self._device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._device)
            if size <= _DEVICE_SHARE * free:
                return "device"
        return "host" if self._limit is None or self.held["host"] + size <= self._limit else "file"


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Values of the host on a device, which the host does not wait for."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def _narrowed(rows: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.float16:
        rows = rows.clamp(-_LARGEST_HALF, _LARGEST_HALF)
    return rows.to(dtype)


def _bytes(rows: Tensor) -> memoryview:
    return memoryview(rows.numpy().data).cast("B")


def _no_room(error: OSError) -> StorageError:
    return StorageError(
        f"Calibration values that exceed the memory budget cannot be written to {tempfile.gettempdir()}: "
        f"{error.strerror}; set TMPDIR to a folder with room, or raise the budget."
    )
