"""A graph as a chain of units, without knowing any block class.

A cut goes where few values are live. Cuts inside one block of the original model are not allowed; what a block is
follows from the tree of modules that `torch.export` recorded (`nn_module_stack`), not from names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import SymInt, Tensor, fx, nn

from mrecg.graph.modules import BlockTree
from mrecg.graph.placement import (
    LAYER_OPERATORS,
    PlacedQuantizer,
    data_nodes,
    layer_name,
    layers_of,
)
from mrecg.recipe import FLOAT_BITS
from mrecg.record import Layer

__all__ = ["Chain", "Unit", "cut"]

MOST_LIVE_BETWEEN_BLOCKS = 4
"""Values that may cross a cut beside a block; elsewhere only one may, or a shortcut would be cut."""


@dataclass(frozen=True)
class Unit:
    """The smallest piece that is cut out: some layers, and everything up to the next layer.

    Attributes:
        name: the block or layer that it is.
        inputs: names of the values that it reads.
        outputs: names of the values that it makes and that are read after it.
        layers: its layers.
        shape: of its last output, without the batch.
        weights: names of its weight quantizers and of the parameters that they quantize.
        activations: names of its activation quantizers.
        quantized: the unit with its quantizers; `inputs` in order to a tuple of `outputs`.
        plain: the float unit; `inputs` to a tuple of `outputs` and then of the tensors that the
            activation quantizers read, in the order of `activations`.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[Layer, ...]
    shape: tuple[int, ...]
    weights: Mapping[str, str]
    activations: tuple[str, ...]
    quantized: fx.GraphModule
    plain: fx.GraphModule


@dataclass(frozen=True)
class Chain:
    """Units in execution order.

    Attributes:
        units: run one after the other, each adds its outputs to the values known so far.
        input: name of the model's input.
        outputs: names of the model's outputs.
    """

    units: tuple[Unit, ...]
    input: str
    outputs: tuple[str, ...]

    @cached_property
    def last_reader(self) -> dict[str, int]:
        """For each value, the index of the last unit that reads it; outputs of the model live on."""
        readers = {name: index for index, unit in enumerate(self.units) for name in unit.inputs}
        return readers | dict.fromkeys(self.outputs, len(self.units))


def cut(
    placed: fx.GraphModule,
    quantizers: Sequence[PlacedQuantizer],
    model: nn.Module,
    granularity: Literal["layer", "block"],
) -> Chain:
    """Cut a graph with quantizers into units.

    Args:
        placed: from `place`; its modules and parameters are shared, not copied.
        quantizers: their list, from `place`.
        model: the original model, for its tree of modules.
        granularity: `block` for blocks and single layers outside of them, `layer` for single layers.
    """
    layers = layers_of(placed.graph)
    tree = BlockTree(model, layers)
    data = data_nodes(placed.graph)
    body = [node for node in placed.graph.nodes if node in data and _holds_tensors(node)]
    output = next(node for node in placed.graph.nodes if node.op == "output")
    blocks = {node: tree.block_of(node) for node in body} if granularity == "block" else None
    pieces = _split(body, layers, blocks)
    by_name = {quantizer.name: quantizer for quantizer in quantizers}
    units: list[Unit] = []
    for piece in _attach_loose(pieces, frozenset(layers)):
        names = [
            tree.path_of(node) if granularity == "block" else layer_name(node)
            for node in piece
            if node in layers
        ]
        owned = {name for unit in units for name in (*unit.weights, *unit.activations)}
        units.append(_extract(placed, piece, _label(names), by_name, owned, output))
    source = next(node.name for node in placed.graph.nodes if node.op == "placeholder")
    results = tuple(dict.fromkeys(node.name for node in output.all_input_nodes if node in data))
    return Chain(tuple(units), source, results)


def _label(names: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(names))
    return distinct[0] if len(distinct) == 1 else f"{distinct[0]}..{distinct[-1]}"


def _value(node: fx.Node) -> object:
    """The traced value of a node; inserted quantizers keep that of their source."""
    while "val" not in node.meta and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node.meta.get("val")


def _holds_tensors(node: fx.Node) -> bool:
    """Whether a node computes tensors; sizes are computed anew wherever they are needed."""
    return node.op not in ("placeholder", "output") and isinstance(
        _value(node), (Tensor, list, tuple)
    )


def _can_be_stored(node: fx.Node) -> bool:
    """Whether a value is one tensor whose first axis is the batch."""
    value = _value(node)
    return isinstance(value, Tensor) and value.ndim > 0 and isinstance(value.shape[0], SymInt)


def _ends_the_unit_before(node: fx.Node) -> bool:
    """Whether a loose value is better reconstructed with the unit before than read by the unit after.

    It is as long as it has the positions of the feature map that it is made from: a target that is pooled to a vector
    says little about the unit. A quantizer goes with the unit that reads it, where its step is learned for what it
    does to that unit's output; the target before it is free of its error.
    """
    value = _value(node)
    sources = [source for source in map(_value, node.all_input_nodes) if isinstance(source, Tensor)]
    if node.op == "call_module" or not isinstance(value, Tensor) or not sources:
        return False
    same_rank = value.ndim == max(source.ndim for source in sources)
    return same_rank and not (value.ndim == 4 and value.shape[2] == value.shape[3] == 1)


def _split(
    body: Sequence[fx.Node],
    layers: Sequence[fx.Node],
    blocks: Mapping[fx.Node, str | None] | None,
) -> list[list[fx.Node]]:
    """Split at every position where a cut is allowed; without `blocks`, live values do not matter."""
    index = {node: position for position, node in enumerate(body)}
    joined = [(first, last) for first, last in _spans(index, layers, blocks) if last > first]
    pieces: list[list[fx.Node]] = [[]]
    live: dict[fx.Node, int] = {}
    for position, node in enumerate(body):
        if position and _may_cut(position, body, live, joined, blocks):
            pieces.append([])
        pieces[-1].append(node)
        for value in (node, *node.all_input_nodes):
            if value in index or value.op == "placeholder":
                live[value] = max((index[user] for user in _readers(value, index)), default=-1)
        live = {value: last for value, last in live.items() if last > position}
    return pieces


def _readers(value: fx.Node, index: Mapping[fx.Node, int]) -> list[fx.Node]:
    return [user for user in value.users if user in index]


def _spans(
    index: Mapping[fx.Node, int],
    layers: Sequence[fx.Node],
    blocks: Mapping[fx.Node, str | None] | None,
) -> list[tuple[int, int]]:
    """First and last position of what must stay together: calls of one block, uses of one weight."""
    members: dict[tuple[str, str], list[int]] = {}
    for node in layers:
        members.setdefault(("weight", layer_name(node)), []).append(index[node])
    for node, block in (blocks or {}).items():
        if block is not None:
            members.setdefault(("block", block), []).append(index[node])
    return [(min(positions), max(positions)) for positions in members.values()]


def _may_cut(
    position: int,
    body: Sequence[fx.Node],
    live: Mapping[fx.Node, int],
    joined: Sequence[tuple[int, int]],
    blocks: Mapping[fx.Node, str | None] | None,
) -> bool:
    if any(first < position <= last for first, last in joined):
        return False
    if not all(map(_can_be_stored, live)):
        return False
    if blocks is None:
        return True
    beside_block = blocks[body[position - 1]] is not None or blocks[body[position]] is not None
    return len(live) <= (MOST_LIVE_BETWEEN_BLOCKS if beside_block else 1)


def _attach_loose(
    pieces: Sequence[list[fx.Node]], layers: frozenset[fx.Node]
) -> list[list[fx.Node]]:
    """Give pieces without a layer to the unit before or, from the first that does not belong there, to the next."""
    units: list[list[fx.Node]] = []
    waiting: list[fx.Node] = []
    for piece in pieces:
        if any(node in layers for node in piece):
            units.append(waiting + piece)
            waiting = []
        elif units and not waiting and all(map(_ends_the_unit_before, piece)):
            units[-1] += piece
        else:
            waiting = waiting + piece
    if not units:
        return []
    units[-1] += waiting
    return units


def _extract(
    placed: fx.GraphModule,
    piece: Sequence[fx.Node],
    name: str,
    quantizers: Mapping[str, PlacedQuantizer],
    owned: set[str],
    output: fx.Node,
) -> Unit:
    inside = frozenset(piece)
    inputs = _inputs(piece, inside)
    made = [
        node
        for node in piece
        if any(
            user is output or (user not in inside and _holds_tensors(user)) for user in node.users
        )
    ]
    writer = _Writer(inputs)
    plain = _Writer(inputs)
    for node in piece:
        writer.copy(node)
        plain.copy(node, skip=quantizers)
    called = dict.fromkeys(writer.modules)
    mine = [quantizers[target] for target in called if target in quantizers and target not in owned]
    activations = [quantizer.name for quantizer in mine if not quantizer.is_weight]
    read = {node.target: node.all_input_nodes[0] for node in piece if node.op == "call_module"}
    writer.graph.output(tuple(writer.made[node] for node in made))
    plain.graph.output(
        tuple(plain.made[node] for node in (*made, *(read[target] for target in activations)))
    )
    return Unit(
        name=name,
        inputs=tuple(node.name for node in inputs),
        outputs=tuple(node.name for node in made),
        layers=_layers(piece, quantizers),
        shape=_shape(made[-1]),
        weights={quantizer.name: quantizer.tensor for quantizer in mine if quantizer.is_weight},
        activations=tuple(activations),
        quantized=fx.GraphModule(placed, writer.graph),
        plain=fx.GraphModule(placed, plain.graph),
    )


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = _value(node)
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
    weight = _value(node.args[1])  # type: ignore[arg-type]
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
        if node.op == "placeholder" or (_holds_tensors(node) and _can_be_stored(node))
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
            # The only size that is not a number is the batch, which every input starts with.
            batch_of = next(iter(self.made.values()))
            self.made[node] = self.graph.call_function(torch.ops.aten.sym_size.int, (batch_of, 0))
            return self.made[node]
        for source in node.all_input_nodes:
            self.copy(source, skip)
        self.made[node] = self.graph.node_copy(node, self.made.__getitem__)
        if node.op == "call_module":
            self.modules.append(str(node.target))
        return self.made[node]
