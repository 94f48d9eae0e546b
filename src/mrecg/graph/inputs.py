"""ModelInputs of a network: one tensor, or several by the names of its forward's arguments, with the batch on axis 0 of each.

Both are given to a network, cut into batches and moved between devices in the same words, so that code which does no more
need not know which of the two it has.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_origin

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from mrecg.errors import DataError

__all__ = [
    "ChosenInputs",
    "ModelInputs",
    "NamedInputs",
    "are_images",
    "argument_names",
    "as_given",
    "as_inputs",
    "by_position",
    "call",
    "each",
    "joined",
    "shapes",
    "takes_any_number",
    "tensors_of",
    "unfitting_names",
]


@dataclass(frozen=True, eq=False)
class NamedInputs:
    """Several tensors for the same images.

    Attributes:
        tensors: by name, in the order of the arguments; each has the batch on axis 0.
    """

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        """Return the number of images, not of tensors."""
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, chosen: slice | Tensor) -> "NamedInputs":
        """Return some of the images."""
        return NamedInputs({name: one[chosen] for name, one in self.tensors.items()})

    def to(self, device: torch.device) -> "NamedInputs":
        """Return the same on a device."""
        return NamedInputs({name: one.to(device) for name, one in self.tensors.items()})

    def cpu(self) -> "NamedInputs":
        """Return the same on the host."""
        return self.to(torch.device("cpu"))

    def split(self, size: int) -> Iterator["NamedInputs"]:
        """Yield parts of `size` images; the last may have fewer."""
        return (self[first : first + size] for first in range(0, len(self), size))

    def numpy(self) -> dict[str, np.ndarray]:
        """Return the arrays by name."""
        return {name: one.numpy() for name, one in self.tensors.items()}

    def ordered(self, names: Sequence[str]) -> "NamedInputs":
        """Return the same tensors in another order."""
        return NamedInputs({name: self.tensors[name] for name in names})


ModelInputs = Tensor | NamedInputs
"""What a network is given."""


@dataclass(frozen=True, eq=False)
class ChosenInputs:
    """The inputs for some images, which are not copied before they are read.

    Attributes:
        inputs: for all images.
        numbers: of those that are chosen.
    """

    inputs: ModelInputs
    numbers: Int64[Tensor, " n"]

    def __len__(self) -> int:
        """Return the number of chosen images."""
        return len(self.numbers)

    def __getitem__(self, some: slice | Tensor) -> ModelInputs:
        """Return the inputs for some of the chosen images."""
        return self.inputs[self.numbers[some]]


def as_inputs(value: Any, where: str) -> Any:
    """Return a mapping as inputs by name; anything else stays what it is.

    Args:
        value: what a user gave.
        where: it is, for messages, such as `calibration item 3`.

    Raises:
        DataError: an input is no tensor with a batch, or the batches differ in size.
    """
    if not isinstance(value, Mapping):
        return value
    if not value:
        raise DataError(f"There is no input in {where}, expected a tensor by each name.")
    for name, one in value.items():
        if not isinstance(name, str):
            raise DataError(f"An input in {where} has the name {name!r}, expected a string.")
        if not isinstance(one, Tensor) or not one.ndim:
            kind = "a single number" if isinstance(one, Tensor) else f"a {type(one).__name__}"
            raise DataError(
                f"The input '{name}' in {where} is {kind}, expected a tensor with the batch on axis 0."
            )
    sizes = {name: len(one) for name, one in value.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise DataError(
            f"The inputs in {where} have batches of different sizes: {found}; give every image all of its inputs."
        )
    return NamedInputs(dict(value))


def as_given(inputs: ModelInputs) -> Tensor | dict[str, Tensor]:
    """Return inputs as a user gives them: a tensor, or tensors by name."""
    return inputs if isinstance(inputs, Tensor) else dict(inputs.tensors)


def tensors_of(inputs: ModelInputs) -> tuple[Tensor, ...]:
    """Return the tensors in the order of the arguments."""
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs.tensors.values())


def each(inputs: ModelInputs, function: Callable[[Tensor], Tensor]) -> ModelInputs:
    """Return inputs of the same kind, with every tensor replaced by what a function makes of it."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    return NamedInputs({name: function(one) for name, one in inputs.tensors.items()})


def joined(parts: Sequence[ModelInputs]) -> ModelInputs:
    """Return the images of several inputs of one kind one after the other."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([one for one in parts if isinstance(one, Tensor)])
    named = [one.tensors for one in parts if isinstance(one, NamedInputs)]
    return NamedInputs({name: torch.cat([one[name] for one in named]) for name in first.tensors})


def shapes(inputs: NamedInputs) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input without the batch."""
    return {name: tuple(one.shape[1:]) for name, one in inputs.tensors.items()}


def are_images(inputs: ModelInputs) -> bool:
    """Return whether all inputs are images of one height and width, which have a left and a right in common."""
    tensors = tensors_of(inputs)
    sizes = {tuple(one.shape[2:]) for one in tensors}
    return len(sizes) == 1 and all(one.ndim == 4 and one.is_floating_point() for one in tensors)


def call(model: nn.Module, inputs: ModelInputs) -> Any:
    """Return what a model makes of its inputs: named ones are arguments, or one dictionary if it takes a single argument."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    return _pass(model, model.forward, inputs.tensors)


def by_position(model: nn.Module, inputs: ModelInputs) -> None:
    """Make a model take its inputs one after the other, in their order, and say so in its signature; changed in place."""
    forward = model.forward
    names = ("input",) if isinstance(inputs, Tensor) else tuple(inputs.tensors)

    def take(*tensors: Tensor) -> Any:
        if isinstance(inputs, Tensor):
            return forward(*tensors)
        return _pass(forward, forward, dict(zip(names, tensors, strict=True)))

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in names]
    take.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    model.forward = take


def takes_any_number(model: nn.Module) -> bool:
    """Return whether a forward begins with `*args`, so that its signature does not say what it takes."""
    first = next(iter(_parameters(model)), None)
    return first is not None and first.kind is first.VAR_POSITIONAL


def argument_names(model: nn.Module) -> tuple[list[str], list[str]]:
    """Return the arguments that a model's forward needs, and those that it can do without."""
    parameters = _parameters(model)
    named = [one for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    needed = [one.name for one in named if one.default is one.empty]
    return needed, [one.name for one in named if one.name not in needed]


def _parameters(model: nn.Module) -> Sequence[inspect.Parameter]:
    try:
        return tuple(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # a forward that is not Python's
        return ()


def unfitting_names(model: nn.Module, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments that a model needs and that are not among some names, and the names that it does not know."""
    needed, optional = argument_names(model)
    if _takes_mapping(model, names):
        return [], []
    takes_any = any(one.kind is one.VAR_KEYWORD for one in _parameters(model))
    unknown = [] if takes_any else [one for one in names if one not in (*needed, *optional)]
    return [one for one in needed if one not in names], unknown


def _takes_mapping(model: nn.Module, names: Sequence[str]) -> bool:
    """Return whether a model takes a dictionary of these names: its only argument has none of them, and is said to be no tensor.

    One name might be a mistake in the name of the argument: there the annotation must say that it takes a mapping.
    """
    needed, optional = argument_names(model)
    if len(needed) != 1 or set(names) & {*needed, *optional}:
        return False
    annotation = inspect.signature(model.forward).parameters[needed[0]].annotation
    if len(names) == 1:
        return _is_mapping(annotation)
    return annotation not in (Tensor, "Tensor", "torch.Tensor")


def _is_mapping(annotation: object) -> bool:
    """Return whether an annotation, which may be a string, is that of a mapping."""
    if isinstance(annotation, str):
        name = annotation.partition("[")[0].rpartition(".")[2]
        return name.lower() in ("dict", "mapping", "mutablemapping", "ordereddict")
    kind = get_origin(annotation) or annotation
    return isinstance(kind, type) and issubclass(kind, Mapping)


def _pass(
    target: Callable[..., Any], forward: Callable[..., Any], given: Mapping[str, Tensor]
) -> Any:
    """Call a model, or its forward, with its arguments by name, or with all of them in a dictionary."""
    try:
        bound = inspect.signature(forward).bind(**given)
    except TypeError:
        return target(dict(given))
    return target(*bound.args, **bound.kwargs)
