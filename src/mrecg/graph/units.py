"""A graph as a chain of units, without knowing any block class.

A cut goes where few values are live. Cuts inside one block of the original model are not allowed; what a block is
follows from the tree of modules that `torch.export` recorded (`nn_module_stack`), not from names.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from torch import SymInt, Tensor, fx, nn

from mrecg.errors import CaptureError
from mrecg.graph.batch_axis import can_be_stored, images_first
from mrecg.graph.blocks import BlockTree
from mrecg.graph.extract import (
    Insertions,
    Unit,
    extract_unit,
    holds_tensors,
    shape_of,
)
from mrecg.graph.inputs import ModelInputs, tensors_of
from mrecg.graph.layers import data_nodes, layer_name, layers_of, traced_value

__all__ = ["Chain", "Unit", "cut_units"]

MOST_LIVE_BETWEEN_BLOCKS = 4
"""Values that may cross a cut next to a block; elsewhere only one may, or a shortcut would be cut."""


@dataclass(frozen=True)
class Chain:
    """Units in execution order.

    Attributes:
        units: run one after the other, each adds its outputs to the values known so far.
        inputs: names of the model's inputs, in order.
        outputs: names of the values that are compared: mostly what the model returns.
        fixed: names of the quantizers that belong to no unit because no layer is in front of them; where units are cut
            before quantizers there are none.
        sizes: shapes of `outputs`, without the batch.
    """

    units: tuple[Unit, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    fixed: frozenset[str] = frozenset()
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def named(self, inputs: ModelInputs) -> dict[str, Tensor]:
        """Return the model's inputs by their names in the graph."""
        return dict(zip(self.inputs, tensors_of(inputs), strict=True))

    @cached_property
    def channels(self) -> dict[str, int]:
        """Return the number of channels of each value that a unit makes."""
        return {name: count for unit in self.units for name, count in unit.channels.items()}

    @cached_property
    def last_reader(self) -> dict[str, int]:
        """Return, for each value, the index of the last unit that reads it; outputs of the model live on."""
        readers = {name: index for index, unit in enumerate(self.units) for name in unit.inputs}
        return readers | dict.fromkeys(self.outputs, len(self.units))

    def read_later(self, units: Sequence[Unit]) -> list[str]:
        """Return the outputs of neighboring units that are read after them."""
        last = self.units.index(units[-1])
        names = [name for unit in units for name in unit.outputs]
        return [name for name in names if self.last_reader.get(name, -1) > last]


def cut_units(
    placed: fx.GraphModule,
    inserted: Insertions,
    model: nn.Module,
    granularity: Literal["layer", "block"],
    cut: Literal["before-quantizers", "behind-quantizers"] = "before-quantizers",
) -> Chain:
    """Cut a graph with quantizers into units.

    Args:
        placed: from `insert_quantizers`; its modules and parameters are shared, not copied. Where a last layer's result
            does not have the images on axis 0, a node is added that brings them there.
        inserted: its quantizers and rounded biases.
        model: the original model, for its tree of modules.
        granularity: `block` for blocks and single layers outside of them, `layer` for single layers.
        cut: whether what is between two layers begins a unit from its quantizers on, or ends one.

    Raises:
        CaptureError: the model has no layer, or nothing can be compared behind one.
    """
    layers = layers_of(placed.graph)
    if not layers:
        raise CaptureError(
            "The model has no convolution or linear layer with a parameter as weight."
        )
    tree = BlockTree(model, layers)
    answers = _answers(placed.graph, frozenset(layers))
    data = data_nodes(placed.graph)
    body = [node for node in placed.graph.nodes if node in data and holds_tensors(node)]
    blocks = {node: tree.block_of(node) for node in body} if granularity == "block" else None
    pieces = _split(body, layers, blocks, inserted.quantizers)
    units: list[Unit] = []
    behind = cut == "behind-quantizers"
    for piece in _attach_loose(pieces, frozenset(layers), behind):
        names = [
            (granularity == "block" and tree.path_of(node)) or layer_name(node)
            for node in piece
            if node in layers
        ]
        owned = {name for unit in units for name in (*unit.weights, *unit.activations)}
        label = _label(names)
        if any(
            unit.name == label for unit in units
        ):  # layers in the forward of a module that holds blocks, too
            label = _label([layer_name(node) for node in piece if node in layers])
        units.append(extract_unit(placed, piece, label, inserted, owned, answers))
    sources = tuple(node.name for node in placed.graph.nodes if node.op == "placeholder")
    fixed = _in_front(body, frozenset(layers), inserted.quantizers) if behind else frozenset()
    sizes = {node.name: shape_of(node) for node in answers}
    return Chain(tuple(units), sources, tuple(node.name for node in answers), fixed, sizes)


def _in_front(
    body: Sequence[fx.Node], layers: frozenset[fx.Node], quantizers: Container[str]
) -> frozenset[str]:
    """Return the names of the quantizers of activations that no layer is in front of."""
    after = set(layers)
    for node in body:
        if any(source in after for source in node.all_input_nodes):
            after.add(node)
    return frozenset(
        str(node.target)
        for node in body
        if node.op == "call_module" and node.target in quantizers and node not in after
    )


def _answers(graph: fx.Graph, layers: frozenset[fx.Node]) -> list[fx.Node]:
    """Return the values that are compared: what the model returns, or, where that is a class, a mask or a single number, what it is computed from.

    A layer is never behind all of them: what it makes is brought into an order that can be stored.
    """
    data = data_nodes(graph)
    found: list[fx.Node] = []
    waiting = dict.fromkeys(node for node in graph.output_node().all_input_nodes if node in data)
    done: set[fx.Node] = set()
    while waiting:
        node = next(iter(waiting))
        del waiting[node]
        done.add(node)
        if can_be_stored(node):
            found.append(node)
        elif node in layers:
            found.append(images_first(node))
        else:
            read = (one for one in node.all_input_nodes if one in data and one not in done)
            waiting |= dict.fromkeys(one for one in read if not _is_size(one))
    return found


def _is_size(node: fx.Node) -> bool:
    return isinstance(traced_value(node), SymInt)


def _label(names: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(names))
    return distinct[0] if len(distinct) == 1 else f"{distinct[0]}..{distinct[-1]}"


def _ends_the_unit_before(node: fx.Node) -> bool:
    """Return whether a loose value is better reconstructed with the unit before than read by the unit after.

    It is as long as it has the positions of the feature map that it is made from: a target that is pooled to a vector
    says little about the unit. A quantizer goes with the unit that reads it, where its scale is learned for what it
    does to that unit's output; the target before it is free of its error.
    """
    value = traced_value(node)
    sources = [
        source for source in map(traced_value, node.all_input_nodes) if isinstance(source, Tensor)
    ]
    if node.op == "call_module" or not isinstance(value, Tensor) or not sources:
        return False
    same_rank = value.ndim == max(source.ndim for source in sources)
    return same_rank and not (value.ndim == 4 and value.shape[2] == value.shape[3] == 1)


def _split(
    body: Sequence[fx.Node],
    layers: Sequence[fx.Node],
    blocks: Mapping[fx.Node, str | None] | None,
    quantizers: Container[str],
) -> list[list[fx.Node]]:
    """Split at every position where a cut is allowed; without `blocks`, live values do not matter."""
    index = {node: position for position, node in enumerate(body)}
    joined = [
        (first, last) for first, last in _spans(index, layers, blocks, quantizers) if last > first
    ]
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
    quantizers: Container[str],
) -> list[tuple[int, int]]:
    """Return first and last position of what must stay together: calls of one block, uses of one weight or of one range."""
    members: dict[tuple[str, str], list[int]] = {}
    for node in layers:
        members.setdefault(("weight", layer_name(node)), []).append(index[node])
    for node, position in index.items():
        if node.op == "call_module" and node.target in quantizers:
            members.setdefault(("range", str(node.target)), []).append(position)
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
    if not all(value.op == "placeholder" or can_be_stored(value) for value in live):
        return False
    if blocks is None:
        return True
    next_to_block = blocks[body[position - 1]] is not None or blocks[body[position]] is not None
    return len(live) <= (MOST_LIVE_BETWEEN_BLOCKS if next_to_block else 1)


def _attach_loose(
    pieces: Sequence[list[fx.Node]], layers: frozenset[fx.Node], behind: bool
) -> list[list[fx.Node]]:
    """Give pieces without a layer to the unit before or, from the first that does not belong there, to the next.

    Where units are cut `behind` quantizers, all but those in front of the first layer belong to the unit before.
    """
    units: list[list[fx.Node]] = []
    waiting: list[fx.Node] = []
    for piece in pieces:
        if any(node in layers for node in piece):
            units.append(waiting + piece)
            waiting = []
        elif units and (behind or (not waiting and all(map(_ends_the_unit_before, piece)))):
            units[-1] += piece
        else:
            waiting = waiting + piece
    if not units:
        return []
    units[-1] += waiting
    return units
