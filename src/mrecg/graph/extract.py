"""One unit as graphs of its own, with and without quantizers."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx

from mrecg.config.settings import FLOAT_BITS
from mrecg.graph.batch_axis import can_be_stored
from mrecg.graph.channels import channel_axis, channels_of
from mrecg.graph.clipping import FusedClip, find_fusable_clips
from mrecg.graph.convolutions import replace_convolutions
from mrecg.graph.insert import PlacedQuantizer
from mrecg.graph.layers import LAYER_OPERATORS, layer_name, traced_value, weight_operand
from mrecg.graph.operators import arguments_of
from mrecg.records.plan import Layer

__all__ = ["Insertions", "Unit", "extract_unit", "holds_tensors", "shape_of"]


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
        observed_axes: of the channels of each of these tensors, where it has some.
        bindings: what `quantized` takes after `inputs`: quantized weights by the names of their quantizers, activation
            quantizers as functions of a tensor and its bounds, rounded biases by their paths.
        quantized: the unit with quantizers; `inputs` and `bindings` in order to a tuple of `outputs`.
        float_graph: the float unit; `inputs` to a tuple of `outputs` and then of the tensors that the activation
            quantizers read, in the order of `observed`.
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
    observed_axes: tuple[int | None, ...]
    bindings: tuple[str, ...]
    quantized: fx.GraphModule
    float_graph: fx.GraphModule


@dataclass(frozen=True)
class Insertions:
    """Quantizers and biases inserted into the whole graph, and how units take them.

    Attributes:
        quantizers: by name.
        clipping: names of the activation quantizers that can clip.
        biases: paths of rounded biases, with the paths of the float ones.
    """

    quantizers: Mapping[str, PlacedQuantizer]
    clipping: Container[str]
    biases: Mapping[str, str]


def holds_tensors(node: fx.Node) -> bool:
    """Return whether a node computes tensors; sizes are computed anew wherever they are needed."""
    return node.op not in ("placeholder", "output") and isinstance(
        traced_value(node), (Tensor, list, tuple)
    )


def extract_unit(
    placed: fx.GraphModule,
    piece: Sequence[fx.Node],
    name: str,
    inserted: Insertions,
    owned: set[str],
    answers: Collection[fx.Node],
) -> Unit:
    """Make a unit of some nodes.

    Args:
        placed: the whole graph; the unit shares its modules and parameters.
        piece: the nodes, in order.
        name: of the unit.
        inserted: quantizers and biases of the whole graph.
        owned: quantizers that belong to units before.
        answers: nodes whose values the model's outputs are made of.
    """
    inputs, made = _inputs(piece), _outputs(piece, answers)
    fused = find_fusable_clips(piece, made, inserted.clipping)
    quantized = _QuantizedWriter(inputs, inserted, fused)
    unquantized = _FloatWriter(inputs, inserted)
    for node in piece:
        if node not in fused:
            quantized.copy(node)
        unquantized.copy(node)
    called = (key for key in quantized.bindings if key in inserted.quantizers)
    mine = [inserted.quantizers[key] for key in called if key not in owned]
    activations = [quantizer.name for quantizer in mine if not quantizer.is_weight]
    reading = [node for node in piece if node.op == "call_module" and node.target in activations]
    quantized.graph.output(tuple(quantized.made[node] for node in made))
    replace_convolutions(quantized.graph)
    observed = [node.all_input_nodes[0] for node in reading]
    unquantized.graph.output(tuple(unquantized.made[node] for node in (*made, *observed)))
    return Unit(
        name=name,
        inputs=tuple(node.name for node in inputs),
        outputs=tuple(node.name for node in made),
        channels={node.name: channels_of(node) for node in made},
        layers=_layers(piece, inserted.quantizers),
        shape=shape_of(made[-1]),
        weights={quantizer.name: quantizer.tensor for quantizer in mine if quantizer.is_weight},
        activations=tuple(activations),
        observed=tuple(str(node.target) for node in reading),
        observed_axes=tuple(map(channel_axis, observed)),
        bindings=tuple(quantized.bindings),
        quantized=fx.GraphModule(placed, quantized.graph),
        float_graph=fx.GraphModule(placed, unquantized.graph),
    )


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's value without the batch."""
    value = traced_value(node)
    return tuple(map(int, value.shape[1:])) if isinstance(value, Tensor) else ()


def _layers(
    piece: Sequence[fx.Node], quantizers: Mapping[str, PlacedQuantizer]
) -> tuple[Layer, ...]:
    found: dict[str, Layer] = {}
    for node in piece:
        if node.target in LAYER_OPERATORS:
            name, weight = layer_name(node), weight_operand(node)
            found[name] = _describe(node, name, quantizers.get(str(weight.target)))
    return tuple(found.values())


def _describe(node: fx.Node, name: str, quantizer: PlacedQuantizer | None) -> Layer:
    weight = traced_value(node.args[1])  # type: ignore[arg-type]
    assert isinstance(weight, Tensor)
    assert isinstance(node.target, torch._ops.OpOverload)
    arguments = arguments_of(node)
    strides, groups = arguments.get("stride", 1), arguments.get("groups", 1)
    stride = max(strides) if isinstance(strides, list | tuple) else strides
    kind: Literal["dense", "grouped", "depthwise"] = "dense"
    if groups > 1:
        kind = "depthwise" if groups == weight.shape[0] else "grouped"
    return Layer(
        name=name,
        kind=node.target._schema.name.removeprefix("aten::"),
        parameters=weight.numel(),
        bits=FLOAT_BITS if quantizer is None else quantizer.request.bits,
        stride=int(stride),
        groups=kind,
    )


def _inputs(piece: Sequence[fx.Node]) -> list[fx.Node]:
    """Return the values that a piece reads and does not make."""
    inside = frozenset(piece)
    read = (source for node in piece for source in node.all_input_nodes if source not in inside)
    return [
        node
        for node in dict.fromkeys(read)
        if node.op == "placeholder" or (holds_tensors(node) and can_be_stored(node))
    ]


def _outputs(piece: Sequence[fx.Node], answers: Collection[fx.Node]) -> list[fx.Node]:
    """Return the values that a piece makes and that are read after it or are among `answers`."""
    inside = frozenset(piece)
    return [
        node
        for node in piece
        if node in answers or any(user not in inside and holds_tensors(user) for user in node.users)
    ]


class _Writer(ABC):
    """Copies nodes into a graph of their own; constants and sizes come along where they are needed."""

    def __init__(self, inputs: Sequence[fx.Node], inserted: Insertions) -> None:
        self.graph = fx.Graph()
        self.made: dict[fx.Node, fx.Node] = {}
        self._inserted = inserted
        for node in inputs:
            self.made[node] = self.graph.placeholder(node.name)
            self.made[node].meta = dict(node.meta)

    def copy(self, node: fx.Node) -> fx.Node:
        """Copy `node` and what it needs."""
        if node not in self.made:
            self.made[node] = self._copy(node)
        return self.made[node]

    def _copy(self, node: fx.Node) -> fx.Node:
        if node.op == "call_module" and node.target in self._inserted.quantizers:
            return self._quantizer(node, self._inserted.quantizers[str(node.target)])
        if node.op == "get_attr" and node.target in self._inserted.biases:
            return self._bias(node)
        if node.target is torch.ops.aten.sym_size.int and node.args[0] not in self.made:
            return self._multiple_of_batch(node)
        for source in node.all_input_nodes:
            self.copy(source)
        return self.graph.node_copy(node, self.made.__getitem__)

    @abstractmethod
    def _quantizer(self, node: fx.Node, quantizer: PlacedQuantizer) -> fx.Node: ...

    @abstractmethod
    def _bias(self, node: fx.Node) -> fx.Node: ...

    def _multiple_of_batch(self, size: fx.Node) -> fx.Node:
        """Return a symbolic size: the batch, which every input starts with, or a multiple; others are numbers."""
        expression = size.meta["val"].node.expr
        times = int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))
        batch_of = next(iter(self.made.values()))
        batch = self.graph.call_function(torch.ops.aten.sym_size.int, (batch_of, 0))
        return batch if times == 1 else self.graph.call_function(operator.mul, (batch, times))


class _FloatWriter(_Writer):
    """Leaves quantizers out and reads float biases."""

    def _quantizer(self, node: fx.Node, quantizer: PlacedQuantizer) -> fx.Node:
        return self.copy(node.all_input_nodes[0])

    def _bias(self, node: fx.Node) -> fx.Node:
        attribute = self.graph.get_attr(self._inserted.biases[str(node.target)])
        attribute.meta = dict(node.meta)
        return attribute


class _QuantizedWriter(_Writer):
    """Makes arguments of what quantization decides: weights, biases, and activation quantizers as functions."""

    def __init__(
        self, inputs: Sequence[fx.Node], inserted: Insertions, fused: Mapping[fx.Node, FusedClip]
    ) -> None:
        super().__init__(inputs, inserted)
        self.bindings: dict[str, fx.Node] = {}
        self._clips = {clip.quantizer: clip for clip in fused.values()}

    def _quantizer(self, node: fx.Node, quantizer: PlacedQuantizer) -> fx.Node:
        bound = self._binding(node)
        if quantizer.is_weight:
            return bound
        clip = self._clips.get(node)
        source = node.all_input_nodes[0] if clip is None else clip.source
        bounds = None if clip is None else clip.bounds
        call = self.graph.call_function(operator.call, (bound, self.copy(source), bounds))
        call.meta = dict(node.meta)
        return call

    def _bias(self, node: fx.Node) -> fx.Node:
        return self._binding(node)

    def _binding(self, node: fx.Node) -> fx.Node:
        key = str(node.target)
        if key not in self.bindings:
            # Numbered: a path need not be a name that Python accepts.
            self.bindings[key] = self.graph.placeholder(f"binding_{len(self.bindings)}")
        return self.bindings[key]
