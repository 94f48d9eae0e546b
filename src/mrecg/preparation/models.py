"""Check that a model can be quantized."""

import torch
from torch import Tensor, nn

from mrecg.errors import DataError, ModelError
from mrecg.graph.inputs import ModelInputs, argument_names, unfitting_names

__all__ = ["check_model", "fit_inputs"]

_WRAPPERS: dict[type[nn.Module], str] = {
    nn.DataParallel: "give what it wraps, its .module",
    nn.parallel.DistributedDataParallel: "give what it wraps, its .module",
    torch.jit.ScriptModule: "torch.export cannot read it; give the module that it was made from",
    torch._dynamo.OptimizedModule: "give the module as it was before torch.compile",
}
_STATISTICS = ("running_mean", "running_var")


def check_model(model: object) -> None:
    """Refuse what is no float32 network with finite weights on one device; buffers may be masks of infinite values.

    Raises:
        ModelError: naming the tensor at fault.
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


def fit_inputs(model: nn.Module, images: ModelInputs, where: str) -> ModelInputs:
    """Return inputs in the order of the arguments of a model's forward.

    Args:
        model: takes them.
        images: the inputs.
        where: they are, for messages.

    Raises:
        ModelError: the model takes several, and one is given.
        DataError: an argument is missing or unknown.
    """
    needed, optional = argument_names(model)
    if isinstance(images, Tensor):
        if len(needed) > 1:
            raise ModelError(
                f"The model takes {len(needed)} inputs: {', '.join(needed)}, and {where} gives one; in Python, give dictionaries "
                "of tensors by these names."
            )
        return images
    names = list(images.tensors)
    missing, unknown = unfitting_names(model, names)
    if missing:
        raise DataError(
            f"The model's forward needs the input '{missing[0]}', which {where} does not give; it gives {', '.join(names)}."
        )
    if unknown:
        raise DataError(
            f"The model's forward has no input '{unknown[0]}', which {where} gives; its inputs: {', '.join((*needed, *optional))}."
        )
    known = [name for name in (*needed, *optional) if name in names]
    return images.ordered([*known, *(name for name in names if name not in known)])
