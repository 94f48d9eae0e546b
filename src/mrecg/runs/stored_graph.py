"""The structure of a quantized model as JSON: operators by name, their arguments, the shapes of the tensors.

Written and read here instead of by `torch.export.save` and `load`, which unpickle. The tensors are in another file.
"""

import keyword
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from mrecg.records.json_model import JsonModel

__all__ = ["StoredGraph", "StoredInput", "StoredNode", "StoredTensor", "is_name", "is_path"]

_PART = re.compile(r"[\w\- :/+@#=,<>|~^*%&!?;]+")
"""A module's name: anything but what could end the string that it becomes in the code of a graph module."""

Size = Annotated[int, Field(ge=0, lt=1 << 40)]


class StoredTensor(JsonModel):
    """A parameter or buffer.

    Attributes:
        kind: `constant` is a buffer that is no part of the state dict.
        dtype, shape: of the tensor.
        grid: smallest and largest code, where the codes are packed to their bits.
    """

    kind: Literal["parameter", "buffer", "constant"]
    dtype: str
    shape: tuple[Size, ...]
    grid: tuple[int, int] | None = None


class StoredNode(JsonModel):
    """One operator.

    Attributes:
        name: of its result.
        operator: its own name, such as `aten.conv2d.default`.
        args, kwargs: numbers, strings, lists, and single-keyed objects such as `{"node": "conv2d"}`.
        module: path of the original module that called it.
    """

    name: str
    operator: str
    args: tuple[JsonValue, ...]
    kwargs: Mapping[str, JsonValue] = {}
    module: str = ""


class StoredInput(JsonModel):
    """An input of a network.

    Attributes:
        name: of the argument that it is.
        dtype, shape: of the tensor, without the batch.
    """

    name: str
    dtype: str
    shape: tuple[Size, ...]


class StoredGraph(JsonModel):
    """A network.

    Attributes:
        format: of this file.
        input, input_dtype, input_shape: the name of the images, or of the first input, its type and shape, without the batch.
        more_inputs: those behind the first.
        tensors: by their names in the state dict, in its order.
        nodes: in the order of execution.
        output: what the network returns.
    """

    format: Literal[1] = 1
    input: str
    input_dtype: str
    input_shape: tuple[Size, ...]
    more_inputs: tuple[StoredInput, ...] = ()
    tensors: Mapping[str, StoredTensor]
    nodes: tuple[StoredNode, ...]
    output: JsonValue

    @property
    def inputs(self) -> tuple[StoredInput, ...]:
        """Return all inputs, in the order in which the network takes them."""
        first = StoredInput(name=self.input, dtype=self.input_dtype, shape=self.input_shape)
        return (first, *self.more_inputs)

    def to_json(self) -> str:
        """Return the graph as JSON without blanks, which would double its size."""
        return self.model_dump_json(exclude_defaults=True) + "\n"


def is_name(text: str) -> bool:
    """Return whether `text` can be the name of a variable."""
    return text.isascii() and text.isidentifier() and not keyword.iskeyword(text)


def is_path(text: str) -> bool:
    """Return whether `text` can be the dotted path of a module or tensor."""
    parts = text.split(".")
    return all(_PART.fullmatch(part) and not part.startswith("__") for part in parts)
