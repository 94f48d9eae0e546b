"""What convolutions and products are computed in."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from mrecg.config.settings import Precision

__all__ = ["precision", "products"]


@contextlib.contextmanager
def precision(name: Precision, device: torch.device) -> Iterator[None]:
    """The context of a forward pass in some precision: of products, and in `bfloat16` of what they are given, too."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(products(name, device))
        if name == "bfloat16":
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        yield


@contextlib.contextmanager
def products(name: Precision, device: torch.device) -> Iterator[None]:
    """The context in which numbers of 32 bits are multiplied, forward and backward, as they are or in TF32.

    On CUDA devices torch's own choice is TF32 for convolutions. Its settings are those of the process; where one is
    changed here and put back, it no longer follows `torch.backends.fp32_precision`.
    """
    with contextlib.ExitStack() as stack:
        if _knows_tfloat32(device):
            wanted = "tf32" if name == "tfloat32" else "ieee"
            for backend in (
                torch.backends.cuda.matmul,
                torch.backends.cudnn.conv,  # type: ignore[attr-defined]
            ):
                stack.enter_context(_multiplying_in(backend, wanted))
        yield


def _knows_tfloat32(device: torch.device) -> bool:
    return device.type == "cuda"


@contextlib.contextmanager
def _multiplying_in(backend: Any, wanted: str) -> Iterator[None]:
    before = backend.fp32_precision
    if before == wanted:
        yield
        return
    backend.fp32_precision = wanted
    try:
        yield
    finally:
        backend.fp32_precision = before
