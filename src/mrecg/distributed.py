"""Share one run among several processes, as `torchrun` starts them; in a single process nothing here has an effect.

Every process is given the same images and takes every `count()`-th of them. Averaged and gathered values are equal in all
processes, so that all make the same decisions; only the first one prints and writes files.
"""

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mrecg.errors import DataError, RecipeError

__all__ = [
    "add_up",
    "average",
    "average_gradients",
    "count",
    "gather_rows",
    "is_first",
    "local_device",
    "rank",
    "session",
    "share_of_batch",
    "share_of_images",
    "share_of_items",
    "total",
    "wait",
]


_Item = TypeVar("_Item")


class _HasRows(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, chosen: Any, /) -> Any: ...


_Rows = TypeVar("_Rows", bound=_HasRows)


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if _is_shared() else 0


def count() -> int:
    """Return the number of processes that share the run."""
    return dist.get_world_size() if _is_shared() else 1


def is_first() -> bool:
    """Return whether this process is the one that prints and writes files."""
    return rank() == 0


def local_device() -> torch.device:
    """Return the GPU that `torchrun` assigns to this process, the first one without `torchrun`, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Join the process group that `torchrun` started, if it did, until the context ends; do nothing in a group that exists."""
    if not (dist.is_available() and dist.is_torchelastic_launched()) or _is_shared():
        yield
        return
    device = local_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Both backends: a model may stay on the CPU of a machine with GPUs, and then its collectives run there, too.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def share_of_images(images: _Rows) -> _Rows:
    """Return this process's share of the images, or of the inputs for them: every `count()`-th, so that batch i of all processes together is batch i of one.

    Raises:
        DataError: the number of images is not a multiple of `count()`.
    """
    if len(images) % count():
        raise DataError(
            f"The calibration set has {len(images)} images, which {count()} processes cannot share evenly; "
            f"give {len(images) // count() * count()}."
        )
    share: _Rows = images[rank() :: count()]
    return share


def share_of_batch(size: int) -> int:
    """Return this process's share of a batch size.

    Raises:
        RecipeError: `size` is not a multiple of `count()`.
    """
    if size % count():
        raise RecipeError(
            f"The setting reconstruct.batch_size is {size}, which {count()} processes cannot share evenly; "
            f"give a multiple of {count()}."
        )
    return size // count()


def share_of_items(items: Iterable[_Item]) -> Iterator[_Item]:
    """Yield this process's share of a series: every `count()`-th item."""
    return itertools.islice(items, rank(), None, count())


def average(values: Sequence[float]) -> list[float]:
    """Return the mean over the processes, element by element."""
    return [value / count() for value in total(values)]


def total(values: Sequence[float]) -> list[float]:
    """Return the sum over the processes, element by element."""
    if count() == 1:
        return list(values)
    added = torch.tensor(values, dtype=torch.float64)  # on the CPU: gloo
    dist.all_reduce(added)
    return [float(value) for value in added]


def wait() -> None:
    """Wait for all processes, such as before reading a file that another process may still be writing.

    Not `dist.barrier`: with NCCL it guesses a device and may hang.
    """
    total([0.0])


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace every gradient by its mean over the processes, in one all-reduce of one flat tensor."""
    if count() == 1:
        return
    gradients = [one.grad for one in parameters if one.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= count()
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))


def add_up(tensors: Iterable[Tensor]) -> None:
    """Replace every tensor by its sum over the processes."""
    if count() > 1:
        for one in tensors:
            dist.all_reduce(one)


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all processes, in the order of the images that they come from."""
    if count() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(count())]
    dist.all_gather(parts, rows.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)  # interleaved, as `share_of_images` took them


def _is_shared() -> bool:
    return dist.is_available() and dist.is_initialized()
