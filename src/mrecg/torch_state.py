"""torch's modes that the caller may have left on, and that would change what a run computes."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

__all__ = ["evaluation_mode", "own_modes"]


@contextlib.contextmanager
def own_modes() -> Iterator[None]:
    """Without inference mode and autocast, and with float32 as default type, whatever the caller has chosen."""
    chosen = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        torch.set_default_dtype(chosen)


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """The model's modules as after `eval()`, and afterwards as they were; exported ones refuse that call."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
