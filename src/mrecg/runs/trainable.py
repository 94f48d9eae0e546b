"""From a quantized model to a module that trains, and back: quantization-aware training starts where a run ends."""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from mrecg.config.recipe import Recipe
from mrecg.errors import ModelError, RunError, expect
from mrecg.graph.blocks import free_name
from mrecg.graph.layers import LAYER_OPERATORS, weight_operand
from mrecg.preparation.value_records import describe_weight
from mrecg.quantizers.grid import UniformGrid
from mrecg.quantizers.straight_through import (
    TrainableScale,
    TrainableWeight,
    fake_quantize,
    round_bias,
)
from mrecg.records.evaluation import Evaluation
from mrecg.records.record import QuantizerRecord, Record, TrainingRecord
from mrecg.runs.folder import QuantizedModel
from mrecg.runs.graph_reader import rebuild
from mrecg.runs.graph_writer import store_graph
from mrecg.runs.sizes import code_grids, weight_path
from mrecg.runs.stored_graph import StoredGraph, StoredNode
from mrecg.torch_state import default_torch_modes

__all__ = ["Origin", "TrainableModel", "from_trained", "make_trainable"]

_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_WEIGHT = torch.ops.quantized_decomposed.dequantize_per_channel.default
_ACTIVATION_OPERATORS = tuple(
    f"quantized_decomposed.{name}_per_tensor.default" for name in ("quantize", "dequantize")
)
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

    def forward(self, images: Tensor) -> Any:
        """Return what the quantized model returns."""
        return self.network(images)


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
        if not torch.equal(value, _rounded_bias(network, path, *paths)):
            continue  # as a runtime holds it that adds floats
        found[path] = paths
        with network.graph.inserting_before(node):
            numbers = (bias, scales[node.args[0]], operand.args[0])
            grid = weight.grid.low, weight.grid.high
            node.update_arg(2, network.graph.call_function(round_bias, (*numbers, *grid)))
    return found


@torch.no_grad()
def _rounded_bias(network: fx.GraphModule, path: str, of_input: str, of_weight: str) -> Tensor:
    weight = network.get_submodule(of_weight)
    assert isinstance(weight, TrainableWeight)
    scale = network.get_submodule(of_input)()
    grid = weight.grid.low, weight.grid.high
    return round_bias(network.get_parameter(path), scale, weight.scale(), *grid).detach()


def _is_power_of_two(scale: Tensor) -> bool:
    return bool((torch.frexp(scale).mantissa == 0.5).all())


@default_torch_modes()
@torch.no_grad()
def from_trained(
    module: nn.Module,
    *,
    accuracy: Evaluation | None = None,
    float_accuracy: Evaluation | None = None,
    folder: str | Path | None = None,
) -> QuantizedModel:
    """Return the quantized model that a trained module computes: integer codes and scales, bit for bit the same outputs.

    Args:
        module: from `QuantizedModel.trainable`, or one that holds it, such as a LightningModule.
        accuracy: of the module, from `mrecg.evaluate`, for the record; without it the record holds none, as the old one is
            no longer true.
        float_accuracy: of the float network on the same images; without it that of the run.
        folder: a new one, to save the run in.

    Raises:
        ModelError: there is no such module, or training made numbers of it that are none.
        RunError: the folder cannot be written, or the accuracy of the float network is not known.
    """
    trained = _find(module)
    network, origin = trained.network, trained.origin
    _require_finite(network)
    tensors = {name: _trained_tensor(network, origin, name) for name in origin.graph.tensors}
    scales = {key: float(network.get_submodule(path)()) for key, path in origin.activations.items()}
    nodes = tuple(_with_scale(node, scales) for node in origin.graph.nodes)
    program = rebuild(origin.graph.model_copy(update={"nodes": nodes}), tensors)
    record = origin.record.model_copy(
        update={
            "quantizers": tuple(
                _describe(one, network, scales) for one in origin.record.quantizers
            ),
            "training": _summarize(network, origin),
            "accuracy": _accuracies(origin.record, accuracy, float_accuracy),
        }
    )
    found = QuantizedModel(program, record, origin.recipe)
    if folder is not None:
        found.save(folder)
    return found


def _find(module: nn.Module) -> TrainableModel:
    expect(module, nn.Module, "The trained model", "give the module that was trained", ModelError)
    found = [one for one in module.modules() if isinstance(one, TrainableModel)]
    if len(found) != 1:
        raise ModelError(
            f"The module holds {len(found)} models from quantized.trainable(), expected one; give the one that was trained."
        )
    return found[0]


def _require_finite(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ModelError(
                f"The parameter '{name}' of the trained model is NaN or infinite: its training diverged; "
                "train with a smaller learning rate."
            )


def _trained_tensor(network: fx.GraphModule, origin: Origin, name: str) -> Tensor:
    """Return a tensor of the run as it is now, on the CPU in rows."""
    owner, _, attribute = name.rpartition(".")
    if owner in origin.weights:
        weight = network.get_submodule(owner)
        assert isinstance(weight, TrainableWeight)
        state = weight.current()
        value = state.codes if attribute == "codes" else getattr(state.scaling, attribute).flatten()
    elif name in origin.biases:
        value = _rounded_bias(network, name, *origin.biases[name])
    else:
        value = attrgetter(name)(network)
    dtype = getattr(torch, origin.graph.tensors[name].dtype)
    return value.detach().to("cpu", dtype).contiguous().clone()


def _with_scale(
    node: StoredNode, scales: Mapping[tuple[float, int, int, int], float]
) -> StoredNode:
    if node.operator not in _ACTIVATION_OPERATORS:
        return node
    x, scale, zero_point, low, high, *others = node.args
    found = scales[scale, zero_point, low, high]  # type: ignore[index]
    return node.model_copy(update={"args": (x, found, zero_point, low, high, *others)})


def _describe(
    record: QuantizerRecord,
    network: fx.GraphModule,
    scales: Mapping[tuple[float, int, int, int], float],
) -> QuantizerRecord:
    """Return the record of a quantizer after training; what activations it reads now is not known."""
    if record.kind == "activation":
        known = {(scale, low, high): now for (scale, _, low, high), now in scales.items()}
        now = known.get((record.scales[0], record.low, record.high), record.scales[0])
        return record.model_copy(update={"scales": (now, now), "values": None})
    weight = network.get_submodule(weight_path(record))
    assert isinstance(weight, TrainableWeight)
    low, high = torch.aminmax(weight.scale())
    values = describe_weight(weight.grid, weight.current(), weight.axis)
    return record.model_copy(update={"scales": (float(low), float(high)), "values": values})


def _summarize(network: fx.GraphModule, origin: Origin) -> TrainingRecord:
    """Return how far training went from the run."""
    codes = changed = 0
    factors = []
    for path in origin.weights:
        weight = network.get_submodule(path)
        assert isinstance(weight, TrainableWeight)
        codes += weight.latent.numel()
        changed += int((weight.current().codes != weight.first).sum())
    for one in network.modules():
        if isinstance(one, TrainableScale) and one.factor is not None:
            factors.append((one() / one.start).flatten())
    low, high = torch.cat(factors).aminmax() if factors else (torch.ones(1), torch.ones(1))
    return TrainingRecord(codes=codes, changed=changed, scales=(float(low), float(high)))


def _accuracies(
    record: Record, accuracy: Evaluation | None, float_accuracy: Evaluation | None
) -> dict[str, Evaluation]:
    if accuracy is None:
        return {}
    for one in filter(None, (accuracy, float_accuracy)):
        expect(one, Evaluation, "The accuracy", "measure it with mrecg.evaluate", RunError)
    before = float_accuracy or record.accuracy.get("float")
    if before is None or before.count != accuracy.count:
        raise RunError(
            "The accuracy of the float network on the same images is not in the record of the run; give it as float_accuracy."
        )
    return {"float": before, "quantized": accuracy}
