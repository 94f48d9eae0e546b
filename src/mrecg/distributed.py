"""Several processes that share one run, as `torchrun` starts them; in a single process everything here does nothing.

Every process brings the same images and takes every `count()`-th of them. What is averaged or gathered is equal in all
processes, so that they take the same decisions; the first one speaks and writes.
"""

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mrecg.errors import DataError, RecipeError

__all__ = [
    "average",
    "average_gradients",
    "count",
    "extremes",
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


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if _is_shared() else 0


def count() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if _is_shared() else 1


def is_first() -> bool:
    """Whether this process is the one that speaks and writes."""
    return rank() == 0


def local_device() -> torch.device:
    """The accelerator that `torchrun` means for this process, or the only one; the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Join the processes that `torchrun` started, if it did, for as long as the context lasts."""
    if not (dist.is_available() and dist.is_torchelastic_launched()) or _is_shared():
        yield
        return
    device = local_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # A model may stay on the CPU although there are cards; what it exchanges stays there, too.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def share_of_images(images: Tensor) -> Tensor:
    """This process's part of the images: every `count()`-th, so that batches in order stay the same images.

    Raises:
        DataError: the processes cannot have equally many.
    """
    if len(images) % count():
        raise DataError(
            f"The calibration set has {len(images)} images, which {count()} processes cannot share evenly; "
            f"give {len(images) // count() * count()}."
        )
    return images[rank() :: count()]


def share_of_batch(size: int) -> int:
    """This process's part of a batch.

    Raises:
        RecipeError: the processes cannot have equally many images of it.
    """
    if size % count():
        raise RecipeError(
            f"The setting reconstruct.batch_size is {size}, which {count()} processes cannot share evenly; "
            f"give a multiple of {count()}."
        )
    return size // count()


def share_of_items(items: Iterable[_Item]) -> Iterator[_Item]:
    """This process's part of a series."""
    return itertools.islice(items, rank(), None, count())


def average(values: Sequence[float]) -> list[float]:
    """The mean over the processes, number by number."""
    return [value / count() for value in total(values)]


def total(values: Sequence[float]) -> list[float]:
    """The sum over the processes, number by number."""
    if count() == 1:
        return list(values)
    added = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(added)
    return [float(value) for value in added]


def wait() -> None:
    """Until all processes have come here: what one of them looks for, another may be about to write."""
    total([0.0])


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace every gradient by its mean over the processes, in one exchange."""
    if count() == 1:
        return
    gradients = [one.grad for one in parameters if one.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= count()
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))


def extremes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest `low` and the largest `high` of all processes."""
    if count() == 1:
        return low, high
    ends = torch.stack([-low, high])
    dist.all_reduce(ends, dist.ReduceOp.MAX)
    return -ends[0], ends[1]


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes in the order of the images that they come from."""
    if count() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(count())]
    dist.all_gather(parts, rows.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)


def _is_shared() -> bool:
    return dist.is_available() and dist.is_initialized()
