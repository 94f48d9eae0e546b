"""One unit as graphs of its own, with and without quantizers."""

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import SymInt, Tensor, fx

from mrecg.config.settings import FLOAT_BITS
from mrecg.graph.channels import channels_of
from mrecg.graph.insert import PlacedQuantizer
from mrecg.graph.layers import LAYER_OPERATORS, layer_name, traced_value
from mrecg.records.plan import Layer

__all__ = ["Unit", "can_be_stored", "extract", "holds_tensors"]


@dataclass(frozen=True)
class Unit:
    """The smallest piece that is cut out: some layers, and everything up to the next layer.

    Attributes:
        name: the block or layer that it is.
        inputs: names of the values that it reads.
        outputs: names of the values that it makes and that are read after it.
        channels: of each output.
        layers: its layers.
        shape: of its last output, without the batch.
        weights: names of its weight quantizers and of the parameters that they quantize.
        activations: names of its activation quantizers.
        observed: for each tensor that these read, the name of the quantizer; one may read several.
        quantized: the unit with its quantizers; `inputs` in order to a tuple of `outputs`.
        plain: the float unit; `inputs` to a tuple of `outputs` and then of the tensors that the
            activation quantizers read, in the order of `observed`.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    channels: Mapping[str, int]
    layers: tuple[Layer, ...]
    shape: tuple[int, ...]
    weights: Mapping[str, str]
    activations: tuple[str, ...]
    observed: tuple[str, ...]
    quantized: fx.GraphModule
    plain: fx.GraphModule


def holds_tensors(node: fx.Node) -> bool:
    """Whether a node computes tensors; sizes are computed anew wherever they are needed."""
    return node.op not in ("placeholder", "output") and isinstance(
        traced_value(node), (Tensor, list, tuple)
    )


def can_be_stored(node: fx.Node) -> bool:
    """Whether a value is one tensor of floats whose first axis is the batch, not a multiple of it such as all windows."""
    value = traced_value(node)
    if not isinstance(value, Tensor) or value.ndim == 0 or not value.is_floating_point():
        return False
    length = value.shape[0]
    return isinstance(length, SymInt) and length.node.expr.is_Symbol


def extract(
    placed: fx.GraphModule,
    piece: Sequence[fx.Node],
    name: str,
    quantizers: Mapping[str, PlacedQuantizer],
    owned: set[str],
    answers: Collection[fx.Node],
) -> Unit:
    """Make a unit of some nodes.

    Args:
        placed: the whole graph; the unit shares its modules and parameters.
        piece: the nodes, in order.
        name: of the unit.
        quantizers: all of the graph, by name.
        owned: quantizers that belong to units before.
        answers: nodes whose values tell the model's answer.
    """
    inside = frozenset(piece)
    inputs = _inputs(piece, inside)
    made = [
        node
        for node in piece
        if node in answers or any(user not in inside and holds_tensors(user) for user in node.users)
    ]
    writer = _Writer(inputs)
    plain = _Writer(inputs)
    for node in piece:
        writer.copy(node)
        plain.copy(node, skip=quantizers)
    called = dict.fromkeys(writer.modules)
    mine = [quantizers[target] for target in called if target in quantizers and target not in owned]
    activations = [quantizer.name for quantizer in mine if not quantizer.is_weight]
    reading = [node for node in piece if node.op == "call_module" and node.target in activations]
    writer.graph.output(tuple(writer.made[node] for node in made))
    plain.graph.output(
        tuple(plain.made[node] for node in (*made, *(one.all_input_nodes[0] for one in reading)))
    )
    return Unit(
        name=name,
        inputs=tuple(node.name for node in inputs),
        outputs=tuple(node.name for node in made),
        channels={node.name: channels_of(node) for node in made},
        layers=_layers(piece, quantizers),
        shape=_shape(made[-1]),
        weights={quantizer.name: quantizer.tensor for quantizer in mine if quantizer.is_weight},
        activations=tuple(activations),
        observed=tuple(str(node.target) for node in reading),
        quantized=fx.GraphModule(placed, writer.graph),
        plain=fx.GraphModule(placed, plain.graph),
    )


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = traced_value(node)
    return tuple(map(int, value.shape[1:])) if isinstance(value, Tensor) else ()


def _layers(
    piece: Sequence[fx.Node], quantizers: Mapping[str, PlacedQuantizer]
) -> tuple[Layer, ...]:
    found: dict[str, Layer] = {}
    for node in piece:
        if node.target in LAYER_OPERATORS:
            name, weight = layer_name(node), node.args[1]
            assert isinstance(weight, fx.Node)
            found[name] = _describe(node, name, quantizers.get(str(weight.target)))
    return tuple(found.values())


def _describe(node: fx.Node, name: str, quantizer: PlacedQuantizer | None) -> Layer:
    weight = traced_value(node.args[1])  # type: ignore[arg-type]
    assert isinstance(weight, Tensor)
    assert isinstance(node.target, torch._ops.OpOverload)
    schema = node.target._schema
    arguments: dict[str, Any] = {one.name: one.default_value for one in schema.arguments}
    arguments |= dict(zip(arguments, node.args, strict=False)) | dict(node.kwargs)
    strides, groups = arguments.get("stride", 1), arguments.get("groups", 1)
    stride = max(strides) if isinstance(strides, list | tuple) else strides
    kind: Literal["dense", "grouped", "depthwise"] = "dense"
    if groups > 1:
        kind = "depthwise" if groups == weight.shape[0] else "grouped"
    return Layer(
        name=name,
        kind=schema.name.removeprefix("aten::"),
        parameters=weight.numel(),
        bits=FLOAT_BITS if quantizer is None else quantizer.request.bits,
        stride=int(stride),
        groups=kind,
    )


def _inputs(piece: Sequence[fx.Node], inside: frozenset[fx.Node]) -> list[fx.Node]:
    """The values that a piece reads and does not make."""
    read = (source for node in piece for source in node.all_input_nodes if source not in inside)
    return [
        node
        for node in dict.fromkeys(read)
        if node.op == "placeholder" or (holds_tensors(node) and can_be_stored(node))
    ]


class _Writer:
    """Copies nodes into a graph of their own; constants and sizes come along where they are needed."""

    def __init__(self, inputs: Sequence[fx.Node]) -> None:
        self.graph = fx.Graph()
        self.made: dict[fx.Node, fx.Node] = {}
        self.modules: list[str] = []
        for node in inputs:
            self.made[node] = self.graph.placeholder(node.name)
            self.made[node].meta = dict(node.meta)

    def copy(self, node: fx.Node, skip: Mapping[str, PlacedQuantizer] | None = None) -> fx.Node:
        """Copy `node` and what it needs; modules in `skip` are replaced by their input."""
        if node in self.made:
            return self.made[node]
        if node.op == "call_module" and skip is not None and node.target in skip:
            self.made[node] = self.copy(node.all_input_nodes[0], skip)
            return self.made[node]
        if node.target is torch.ops.aten.sym_size.int and node.args[0] not in self.made:
            self.made[node] = self._multiple_of_batch(node)
            return self.made[node]
        for source in node.all_input_nodes:
            self.copy(source, skip)
        self.made[node] = self.graph.node_copy(node, self.made.__getitem__)
        if node.op == "call_module":
            self.modules.append(str(node.target))
        return self.made[node]

    def _multiple_of_batch(self, size: fx.Node) -> fx.Node:
        """The only sizes that are no numbers are the batch, which every input starts with, and its multiples."""
        expression = size.meta["val"].node.expr
        times = int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))
        batch_of = next(iter(self.made.values()))
        batch = self.graph.call_function(torch.ops.aten.sym_size.int, (batch_of, 0))
        return batch if times == 1 else self.graph.call_function(operator.mul, (batch, times))
