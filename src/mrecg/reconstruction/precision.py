"""What convolutions and products are computed in."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from mrecg.recipe import Precision

__all__ = ["precision"]


@contextlib.contextmanager
def precision(name: Precision, device: torch.device) -> Iterator[None]:
    """The context in which they are: on CUDA devices torch's own choice is TF32 for convolutions, not float32."""
    with contextlib.ExitStack() as stack:
        if device.type == "cuda":
            wanted = "tf32" if name == "tfloat32" else "ieee"
            for backend in (
                torch.backends.cuda.matmul,
                torch.backends.cudnn.conv,  # type: ignore[attr-defined]
                torch.backends.cudnn.rnn,
            ):
                stack.enter_context(_products_in(backend, wanted))
        if name == "bfloat16":
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        yield


@contextlib.contextmanager
def _products_in(backend: Any, wanted: str) -> Iterator[None]:
    before = backend.fp32_precision
    backend.fp32_precision = wanted
    try:
        yield
    finally:
        backend.fp32_precision = before
