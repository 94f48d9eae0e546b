"""From a quantized model to a module that trains: quantization-aware training starts where a run ends."""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from mrecg.config.recipe import Recipe
from mrecg.errors import ModelError
from mrecg.graph.blocks import free_name
from mrecg.graph.layers import LAYER_OPERATORS, weight_operand
from mrecg.quantizers.grid import UniformGrid
from mrecg.quantizers.straight_through import (
    TrainableScale,
    TrainableWeight,
    fake_quantize,
    round_bias,
)
from mrecg.records.record import QuantizerRecord, Record
from mrecg.runs.folder import QuantizedModel
from mrecg.runs.graph_writer import store_graph
from mrecg.runs.sizes import code_grids
from mrecg.runs.stored_graph import StoredGraph
from mrecg.torch_state import default_torch_modes

__all__ = ["Origin", "TrainableModel", "make_trainable", "rounded_bias"]

_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_WEIGHT = torch.ops.quantized_decomposed.dequantize_per_channel.default
_IMAGE_LEVELS = 2**8 - 1
"""From so many steps on, the scale of the images stays: its error is a thousandth of the others'."""


@dataclass(frozen=True)
class Origin:
    """The run that a trainable model comes from, and where its tensors are in the module.

    Attributes:
        graph: the structure of the run's model.
        record, recipe: of the run.
        weights: paths of the `TrainableWeight`s.
        activations: paths of the `TrainableScale`s of activations, by scale and zero point, lowest and highest code.
        biases: paths of the parameters that are rounded, with those of the scale of the layer's input and of its weight.
    """

    graph: StoredGraph
    record: Record
    recipe: Recipe
    weights: tuple[str, ...]
    activations: Mapping[tuple[float, int, int, int], str]
    biases: Mapping[str, tuple[str, str]]


class TrainableModel(nn.Module):
    """A quantized model as a module with parameters: any loop trains it, and `mrecg.from_trained` takes it back.

    It starts with the outputs of the quantized model, bit for bit, and does the same in training as in evaluation: batch norms
    are folded and dropout is gone. Weights, activations and biases are rounded in every step; gradients pass the rounding, and
    scales are learned (LSQ: Esser et al., ICLR 2020). A scale that is a power of two stays, as a target or a backend may have
    prescribed it, and so does that of images with 8 bits.

    Attributes:
        network: the graph with its parameters.
        origin: the run that it comes from.
    """

    def __init__(self, network: fx.GraphModule, origin: Origin) -> None:
        super().__init__()
        self.network, self.origin = network, origin

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Return what the quantized model returns; it takes the same inputs, by position or by name."""
        return self.network(*inputs, **named)


@default_torch_modes()
def make_trainable(quantized: QuantizedModel) -> TrainableModel:
    """Return the module; it shares nothing with the quantized model.

    Raises:
        ModelError: the model has logarithmic codes.
        RunError: it holds something that a run cannot store.
    """
    graph = store_graph(
        quantized.program, code_grids(quantized.record.quantizers, quantized.program.state_dict)
    )
    exported = quantized.program.module(check_guards=False)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        copied = copy.deepcopy(exported)  # torch's own pytree code warns when it is copied
    assert isinstance(copied, fx.GraphModule)
    network = fx.GraphModule(copied, copied.graph)
    network.requires_grad_(True)
    weights = _replace_weights(network)
    if len(weights) < sum(one.kind == "weight" for one in quantized.record.quantizers):
        raise ModelError(
            "The model cannot be trained: its codes are logarithmic, and no gradient reaches them; "
            "quantize it with uniform codes, as all targets but nnie have."
        )
    activations, scales = _replace_activations(network, quantized.record.quantizers)
    biases = _round_biases(network, scales)
    network = fx.GraphModule(network, network.graph)  # without what nothing reads any more
    origin = Origin(graph, quantized.record, quantized.recipe, tuple(weights), activations, biases)
    return TrainableModel(network, origin).train()


def _replace_weights(network: fx.GraphModule) -> dict[str, None]:
    """Put a `TrainableWeight` where codes are; return the paths."""
    found: dict[str, None] = {}
    for node in network.graph.find_nodes(op="call_function", target=_WEIGHT):
        codes, scale, zero_point, axis, low, high, _ = node.args
        path = str(codes.target).rpartition(".")[0]
        if path not in found:
            start = attrgetter(scale.target)(network)
            weight = TrainableWeight(
                attrgetter(codes.target)(network),
                attrgetter(zero_point.target)(network),
                TrainableScale(start, learns=not _is_power_of_two(start)),
                axis,
                UniformGrid(low, high, symmetric=False),
            )
            owner, _, name = path.rpartition(".")
            setattr(network.get_submodule(owner), name, weight)
            found[path] = None
        with network.graph.inserting_before(node):
            current = network.graph.call_module(f"{path}.scale")
            node.replace_all_uses_with(network.graph.call_module(path, (current,)))
        network.graph.erase_node(node)
        for source in (codes, scale, zero_point):
            if not source.users:
                network.graph.erase_node(source)
    return found


def _replace_activations(
    network: fx.GraphModule, quantizers: tuple[QuantizerRecord, ...]
) -> tuple[dict[tuple[float, int, int, int], str], dict[fx.Node, fx.Node]]:
    """Put `fake_quantize` where activations are quantized.

    Quantizers of equal numbers are one: a placement may let several tensors share a scale, so that runtimes can add or join
    their codes.

    Returns:
        The paths of the scales, and for every node of a quantized value the node of its scale.
    """
    names = {(one.scales[0], one.low, one.high): one.name for one in quantizers}
    paths: dict[tuple[float, int, int, int], str] = {}
    scales: dict[fx.Node, fx.Node] = {}
    for node in network.graph.find_nodes(op="call_function", target=_QUANTIZE):
        x, scale, zero_point, low, high, _ = node.args
        key = (scale, zero_point, low, high)
        start = torch.tensor(scale)
        of_images = x.op == "placeholder" and high - low >= _IMAGE_LEVELS
        if key not in paths:
            paths[key] = free_name(network, names.get((scale, low, high), node.name))
            learns = not (of_images or _is_power_of_two(start))
            network.add_module(paths[key], TrainableScale(start, learns))
        with network.graph.inserting_before(node):
            current = network.graph.call_module(paths[key])
            numbers = (x, current, float(zero_point), low, high)
            result = network.graph.call_function(fake_quantize, numbers)
        for reader in list(node.users):  # that dequantize
            reader.replace_all_uses_with(result)
            network.graph.erase_node(reader)
        network.graph.erase_node(node)
        scales[result] = current
    return paths, scales


def _round_biases(
    network: fx.GraphModule, scales: Mapping[fx.Node, fx.Node]
) -> dict[str, tuple[str, str]]:
    """Round the biases of layers whose input and weight are codes, if they are on the grid of such products.

    Returns:
        For the path of each, those of the scale of the input and of the weight.
    """
    found: dict[str, tuple[str, str]] = {}
    for node in list(network.graph.nodes):
        bias = node.args[2] if node.target in LAYER_OPERATORS and len(node.args) > 2 else None
        if bias is None or bias.op != "get_attr" or node.args[0] not in scales:
            continue
        operand = weight_operand(node)
        weight = network.get_submodule(str(operand.target)) if operand.op == "call_module" else None
        if not isinstance(weight, TrainableWeight):
            continue
        path = str(bias.target)
        paths = (str(scales[node.args[0]].target), str(operand.target))
        value = network.get_parameter(path)
        if not torch.equal(value, rounded_bias(network, path, *paths)):
            continue  # as a runtime holds it that adds floats
        found[path] = paths
        with network.graph.inserting_before(node):
            numbers = (bias, scales[node.args[0]], operand.args[0])
            grid = weight.grid.low, weight.grid.high
            node.update_arg(2, network.graph.call_function(round_bias, (*numbers, *grid)))
    return found


@torch.no_grad()
def rounded_bias(network: fx.GraphModule, path: str, of_input: str, of_weight: str) -> Tensor:
    """Return a bias as the module computes it.

    Args:
        network: of a `TrainableModel`.
        path: of the bias.
        of_input, of_weight: paths of the scale of the layer's input and of its weight.
    """
    weight = network.get_submodule(of_weight)
    assert isinstance(weight, TrainableWeight)
    scale = network.get_submodule(of_input)()
    grid = weight.grid.low, weight.grid.high
    return round_bias(network.get_parameter(path), scale, weight.scale(), *grid).detach()


def _is_power_of_two(scale: Tensor) -> bool:
    return bool((torch.frexp(scale).mantissa == 0.5).all())
