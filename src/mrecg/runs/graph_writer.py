"""From a program to its stored graph."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind

from mrecg.errors import RunError
from mrecg.graph.layers import module_path
from mrecg.graph.randomness import is_repeatable
from mrecg.runs.bounds import check_sizes, check_values
from mrecg.runs.graph_builder import GraphBuilder
from mrecg.runs.operators import operator_name
from mrecg.runs.stored_graph import StoredGraph, StoredInput, StoredNode, StoredTensor, is_path

__all__ = ["require_storable", "store_graph"]

_KINDS = {
    InputKind.PARAMETER: "parameter",
    InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "constant",
}


def require_storable(module: fx.GraphModule) -> None:
    """Refuse a network that `QuantizedModel.save` could not write; ask before the work, not after.

    Raises:
        RunError: naming the operator at fault.
    """
    for node in module.graph.nodes:
        if node.op == "call_function":
            _storable_operator(node)


def store_graph(program: ExportedProgram, grids: Mapping[str, tuple[int, int]]) -> StoredGraph:
    """Return the structure of a program.

    Args:
        program: the network.
        grids: smallest and largest code of the tensors that are stored packed.

    Raises:
        RunError: an operator, an argument or a result is of a kind that cannot be stored, or something is larger than
            a reader accepts.
    """
    references, tensors = {}, {}
    values = program.state_dict | program.constants
    for spec in program.graph_signature.input_specs:
        if spec.kind in _KINDS:
            name = str(spec.target)
            references[spec.arg.name] = {"tensor": name}
            kind = "constant" if name in program.constants else _KINDS[spec.kind]
            tensors[name] = _stored_tensor(name, values[name], kind, grids.get(name))
    graph = program.graph
    encode = _Encoder(references)
    first, *others = [
        _stored_input(node)
        for node in graph.nodes
        if node.op == "placeholder" and node.target not in references
    ]
    stored = StoredGraph(
        input=first.name,
        input_dtype=first.dtype,
        input_shape=first.shape,
        more_inputs=tuple(others),
        tensors={name: tensors[name] for name in values if name in tensors},
        nodes=tuple(
            _stored_node(node, encode) for node in graph.nodes if node.op == "call_function"
        ),
        output=encode(_output(program, graph)),
    )
    _require_readable(stored, graph)
    return stored


def _require_readable(stored: StoredGraph, graph: fx.Graph) -> None:
    """Refuse what a reader would refuse."""
    try:
        check_sizes(stored)
        check_values(graph)
        GraphBuilder(stored)
    except RunError as error:
        raise RunError(f"The model cannot be stored in a run: {error}.") from error


def _stored_tensor(
    name: str, value: Tensor, kind: Any, grid: tuple[int, int] | None
) -> StoredTensor:
    if not is_path(name):
        raise RunError(f"The tensor {name!r} cannot be stored in a run: rename its module.")
    return StoredTensor(kind=kind, dtype=_name(value.dtype), shape=tuple(value.shape), grid=grid)


def _stored_input(node: fx.Node) -> StoredInput:
    value = node.meta["val"]
    shape = tuple(map(int, value.shape[1:]))
    return StoredInput(name=str(node.target), dtype=_name(value.dtype), shape=shape)


def _stored_node(node: fx.Node, encode: "_Encoder") -> StoredNode:
    return StoredNode(
        name=node.name,
        operator=_storable_operator(node),
        args=tuple(map(encode, node.args)),
        kwargs={key: encode(value) for key, value in node.kwargs.items()},
        module=module_path(node),
    )


def _storable_operator(node: fx.Node) -> str:
    name = operator_name(node.target)
    if not is_repeatable(node.target, node.args, node.kwargs):  # type: ignore[arg-type]
        raise RunError(
            f"The operator {name} at '{module_path(node) or node.name}' draws random numbers and cannot be stored in a "
            "run: switch its dropout off in evaluation."
        )
    return name


def _name(constant: torch.dtype | torch.layout | torch.memory_format) -> str:
    return str(constant).removeprefix("torch.")


def _output(program: ExportedProgram, graph: fx.Graph) -> Any:
    """Return the result with its tuples and dictionaries, which the graph holds as one flat tuple."""
    flat = list(next(node for node in graph.nodes if node.op == "output").args[0])
    for position, spec in enumerate(program.graph_signature.output_specs):
        if isinstance(spec.arg, ConstantArgument):
            flat[position] = spec.arg.value
    return program.call_spec.out_spec.unflatten(flat)


class _Encoder:
    """Turns arguments into JSON; `references` stand for the placeholders of tensors."""

    def __init__(self, references: dict[str, dict[str, str]]) -> None:
        self.references = references

    def __call__(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, fx.Node):
            if value.op == "placeholder":
                return self.references.get(str(value.target), {"node": str(value.target)})
            return {"node": value.name}
        if value is None or kind in (bool, int, float, str):
            return value
        if isinstance(value, torch.dtype):
            return {"dtype": _name(value)}
        if isinstance(value, torch.device):
            return {"device": "cpu"}  # where a run is opened
        for name, other in (("layout", torch.layout), ("memory_format", torch.memory_format)):
            if isinstance(value, other):
                return {name: _name(value)}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return {
                "namedtuple": [kind.__name__, list(value._fields), [self(one) for one in value]]
            }
        if kind is tuple:
            return {"tuple": [self(one) for one in value]}
        if isinstance(value, list):
            return [self(one) for one in value]
        if isinstance(value, dict) and kind.__name__ in ("dict", "immutable_dict"):
            return {"dict": [[self(key), self(one)] for key, one in value.items()]}
        if kind is OrderedDict:
            return {"ordered_dict": [[self(key), self(one)] for key, one in value.items()]}
        raise RunError(
            f"The model holds or returns a {kind.__name__}, which cannot be stored in a run; "
            "expected tensors, numbers, tuples, lists and dictionaries."
        )
