"""Context managers over torch's global modes: autocast, inference mode, default dtype and the precision of float32 products.

All of them belong to the process or the thread, and a caller may have changed any of them. Each manager restores what it
found, also when its body raises.
"""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

__all__ = [
    "compute_precision",
    "default_torch_modes",
    "device_of",
    "evaluation_mode",
    "matmul_precision",
]

_FLOAT32_MODES = {"float32": "ieee", "tfloat32": "tf32", "bfloat16": "ieee"}
"""torch's name for how float32 numbers are multiplied, by the recipe's `reconstruct.precision`."""


@contextlib.contextmanager
def default_torch_modes() -> Iterator[None]:
    """Turn inference mode and autocast off and make float32 the default dtype."""
    chosen = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with contextlib.ExitStack() as stack:
            # Not `no_grad`: within inference mode it still makes inference tensors, which autograd refuses afterwards.
            stack.enter_context(torch.inference_mode(False))
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        torch.set_default_dtype(chosen)


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module of `model` in evaluation mode.

    The flags are set one by one because exported graph modules raise on `eval()` and `train()`, and because a model may
    keep some of its modules in evaluation mode on purpose.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's tensors, parameters or not; the CPU where it has none."""
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


@contextlib.contextmanager
def compute_precision(name: str, device: torch.device) -> Iterator[None]:
    """Run forward passes in a precision of the recipe: `matmul_precision`, and autocast for `bfloat16`.

    Backward passes belong outside: autocast's backward runs in the dtypes that its forward chose, and torch advises
    against autocast around it. Their float32 products need `matmul_precision`.

    Args:
        name: `float32`, `tfloat32` or `bfloat16`.
        device: where the passes run.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(matmul_precision(name, device))
        if name == "bfloat16":
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        yield


@contextlib.contextmanager
def matmul_precision(name: str, device: torch.device) -> Iterator[None]:
    """Multiply float32 numbers exactly, or in TF32 where `name` is `tfloat32`, in forward and backward passes.

    Does nothing on devices without TF32. On CUDA devices torch computes convolutions in TF32 by default. The settings are
    those of the process. A backend whose setting is changed here and restored no longer follows
    `torch.backends.fp32_precision`: torch reports the value in force, not whether it was inherited.

    Args:
        name: as for `compute_precision`.
        device: where the products are computed.
    """
    wanted = _FLOAT32_MODES[name]
    with contextlib.ExitStack() as stack:
        if _has_tfloat32(device):
            # Not `torch.set_float32_matmul_precision`: it leaves cuDNN's convolutions in TF32.
            for backend in (
                torch.backends.cuda.matmul,
                torch.backends.cudnn.conv,  # type: ignore[attr-defined]
            ):
                stack.enter_context(_float32_mode(backend, wanted))
        yield


def _has_tfloat32(device: torch.device) -> bool:
    return device.type == "cuda"


@contextlib.contextmanager
def _float32_mode(backend: Any, wanted: str) -> Iterator[None]:
    before = backend.fp32_precision
    if before == wanted:  # an assignment of the same value, too, would end the inheritance
        yield
        return
    backend.fp32_precision = wanted
    try:
        yield
    finally:
        backend.fp32_precision = before
