"""Biases as integer hardware holds them: whole multiples of the accumulator's scale.

A runtime adds the bias to a 32-bit sum of products of codes, so it can only hold multiples of s_x · s_w. At 2 bits that is
coarse; the codes' 8-bit words help: 2-bit codes may be stored times 16 (see `accumulator_scale`). Rounding the bias here,
before a loss is measured, makes the exported model the simulated one. Only uniform grids have such a scale; next to any other
grid the bias stays float.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from mrecg.graph.blocks import free_name
from mrecg.graph.layers import LAYER_OPERATORS, weight_operand
from mrecg.quantizers.activation import ActivationQuantizer
from mrecg.quantizers.grid import Scaling, accumulator_scale
from mrecg.quantizers.weight import WeightQuantizer

__all__ = ["IntegerBias", "insert_integer_biases"]

LARGEST_BIAS = 2.0**30
"""In accumulator units; half of what 32 bits hold, so that a learned scale may still shrink."""


@dataclass(frozen=True)
class IntegerBias:
    """The bias of one layer whose input and weight are quantized.

    Attributes:
        source: the float bias.
        float_path: its path in the graph.
        activation, weight: names of the quantizers that decide the accumulator's scale.
        quantizer: the weight's.
    """

    source: Float[Tensor, " channels"]
    float_path: str
    activation: str
    weight: str
    quantizer: WeightQuantizer

    def widen(self, activation: Scaling, weight: Scaling) -> Scaling:
        """Return the weight's scaling with larger scales where weights are so small that 32 bits cannot hold the bias.

        One scale of the whole weight is widened as the worst channel needs it, which is what runtimes do.
        """
        shortage = self.source.abs() / (LARGEST_BIAS * self._unit(activation, weight))
        if not bool((shortage > 1).any()):
            return weight
        if weight.scale.numel() == 1:
            shortage = shortage.amax()
        factor = shortage.clamp(min=1).view_as(weight.scale)
        if self.quantizer.fixed_scale:  # a power of two stays one
            factor = torch.exp2(torch.log2(factor).ceil())
        return Scaling(weight.scale * factor, weight.zero_point)

    @torch.no_grad()
    def round(self, activation: Scaling, weight: Scaling) -> Float[Tensor, " channels"]:
        """Return the bias rounded to the accumulator's scale."""
        unit = self._unit(activation, weight)
        return torch.round(self.source / unit) * unit

    def _unit(self, activation: Scaling, weight: Scaling) -> Tensor:
        return accumulator_scale(activation.scale, weight.scale.flatten(), self.quantizer.grid)


def insert_integer_biases(
    placed: fx.GraphModule,
    weights: Mapping[str, WeightQuantizer],
    activations: Mapping[str, ActivationQuantizer],
) -> dict[str, IntegerBias]:
    """Let layers with integer biases read a parameter of their own, whose value a state decides.

    Args:
        placed: the whole graph, which is changed.
        weights, activations: its quantizers by name.

    Returns:
        The biases by the paths of the new parameters.
    """
    made: dict[str, IntegerBias] = {}
    for node in list(placed.graph.nodes):
        found = None
        if node.target in LAYER_OPERATORS:
            found = _find(placed, node, weights, activations)
        if found is not None:
            made[_insert(placed, node, found)] = found
    placed.recompile()
    return made


def _find(
    placed: fx.GraphModule,
    layer: fx.Node,
    weights: Mapping[str, WeightQuantizer],
    activations: Mapping[str, ActivationQuantizer],
) -> IntegerBias | None:
    operands = [*layer.args[:3], None, None][:3]
    if not all(isinstance(operand, fx.Node) for operand in operands):
        return None
    source, _, bias = (operand for operand in operands if isinstance(operand, fx.Node))
    weight = weight_operand(layer)
    weight_quantizer = weights.get(str(weight.target)) if weight.op == "call_module" else None
    activation = activations.get(str(source.target)) if source.op == "call_module" else None
    if weight_quantizer is None or activation is None or bias.op != "get_attr":
        return None
    if not (activation.grid.is_uniform and weight_quantizer.grid.is_uniform):
        return None  # products of powers are no multiples of one number
    value = attrgetter(str(bias.target))(placed)
    if weight_quantizer.calibrated.scale.numel() not in (1, value.numel()):
        return None  # of a quantizer that knows another axis of the channels
    return IntegerBias(
        value, str(bias.target), str(source.target), str(weight.target), weight_quantizer
    )


def _insert(placed: fx.GraphModule, layer: fx.Node, bias: IntegerBias) -> str:
    """Let `layer` read a new parameter; a layer that is called twice has one per call. Return its path."""
    owner_path, _, name = f"{bias.float_path}_rounded".rpartition(".")
    owner = placed.get_submodule(owner_path)
    name = free_name(owner, name)
    owner.register_parameter(name, nn.Parameter(bias.source.detach().clone(), requires_grad=False))
    path = f"{owner_path}.{name}" if owner_path else name
    with layer.graph.inserting_before(layer):
        attribute = layer.graph.get_attr(path)
    attribute.meta = dict(layer.args[2].meta)  # type: ignore[union-attr]
    layer.update_arg(2, attribute)
    return path
