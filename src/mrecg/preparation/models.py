"""Check that a model can be quantized."""

import inspect
from inspect import Parameter

import torch
from torch import Tensor, nn

from mrecg.errors import ModelError

__all__ = ["check_model"]

_WRAPPERS: dict[type[nn.Module], str] = {
    nn.DataParallel: "give what it wraps, its .module",
    nn.parallel.DistributedDataParallel: "give what it wraps, its .module",
    torch.jit.ScriptModule: "torch.export cannot read it; give the module that it was made from",
    torch._dynamo.OptimizedModule: "give the module as it was before torch.compile",
}
_POSITIONS = (
    Parameter.POSITIONAL_ONLY,
    Parameter.POSITIONAL_OR_KEYWORD,
    Parameter.KEYWORD_ONLY,
)

_STATISTICS = ("running_mean", "running_var")


def check_model(model: object) -> None:
    """Refuse what is no float32 network of one input with finite weights on one device; buffers may be masks of infinite values.

    Raises:
        ModelError: naming the tensor or the inputs at fault.
    """
    if not isinstance(model, nn.Module):
        kind = f"class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ModelError(
            f"The model is the {kind}, expected an instance of torch.nn.Module; build the network first."
        )
    for wrapper, advice in _WRAPPERS.items():
        if isinstance(model, wrapper):
            raise ModelError(f"The model is a {type(model).__name__}: {advice}.")
    for name, part in model.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise ModelError(
                f"The model's part '{name}' is a {type(part).__name__}: {_WRAPPERS[torch.jit.ScriptModule]}."
            )
    _check_inputs(model)
    tensors = {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    for name, tensor in tensors.items():
        if nn.parameter.is_lazy(tensor):
            raise ModelError(
                f"The model's tensor '{name}' has no shape yet; run the model once on an image."
            )
    devices = {str(tensor.device) for tensor in tensors.values()}
    if "meta" in devices:
        raise ModelError("The model's tensors are on the device 'meta', without values; load them.")
    if len(devices) > 1:
        raise ModelError(
            f"The model's tensors are on {' and '.join(sorted(devices))}, expected one device; move the model to one."
        )
    masks = {name for name, _ in model.named_buffers()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(
                f"The model's tensor '{name}' is {kind}, expected float32; call model.float()."
            )
        finite = tensor.isfinite()
        if name in masks and not name.endswith(_STATISTICS):
            finite |= tensor.isinf()
        if not bool(finite.all()):
            raise ModelError(f"The model's tensor '{name}' holds NaN or infinite values.")


def _check_inputs(model: nn.Module) -> None:
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a forward that is not Python's
        return
    needed = [one.name for one in parameters if one.default is one.empty and one.kind in _POSITIONS]
    if len(needed) > 1:
        raise ModelError(
            f"The model takes {len(needed)} inputs: {', '.join(needed)}, expected one; give a module that makes the others from "
            "one tensor, such as of its channels, and calls this one."
        )
