"""Biases as integer hardware holds them: whole numbers of the accumulator's step.

A runtime adds the bias to a 32-bit sum of products of codes, so it can only hold multiples of s_x · s_w. At 2 bits that
is coarse, which the codes' own container mends: 2-bit codes in 8-bit words may be stored times 16 (see `bias_step`).
Rounding the bias here, before the loss is measured, makes the exported model the simulated one. Where codes are logarithms
there is no such step, and the bias stays float.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import torch
from torch import Tensor, fx, nn

from mrecg.graph.blocks import free_name
from mrecg.graph.layers import LAYER_OPERATORS
from mrecg.graph.units import Unit
from mrecg.quantizers.grid import Scaling, bias_step
from mrecg.quantizers.lsq import ActivationQuantizer
from mrecg.quantizers.weight import WeightQuantizer

__all__ = ["IntegerBias", "make_integer_biases"]

LARGEST_BIAS = 2.0**30
"""In accumulator steps; half of what 32 bits hold, so that a step may still shrink while it is learned."""


@dataclass(frozen=True)
class IntegerBias:
    """The bias of one layer whose input and weight are quantized.

    Attributes:
        source: the float bias; the float network keeps it.
        rounded: what the quantized graph reads.
        activation, weight: the quantizers that decide the step.
    """

    source: Tensor
    rounded: nn.Parameter
    activation: ActivationQuantizer
    weight: WeightQuantizer

    def make_room(self) -> None:
        """Widen the steps of channels whose weights are so small that 32 bits could not hold the bias."""
        scaling = self.weight.calibrated
        shortage = self.source.abs() / (LARGEST_BIAS * self._step(scaling))
        if scaling.scale.numel() == self.source.numel() and bool((shortage > 1).any()):
            factor = shortage.clamp(min=1).view_as(scaling.scale)
            if self.weight.fixed_scale:  # a power of two stays one
                factor = torch.exp2(torch.log2(factor).ceil())
            self.weight.calibrated = Scaling(scaling.scale * factor, scaling.zero_point)

    @torch.no_grad()
    def fit(self) -> None:
        """Round to whole steps at the present scales."""
        step = self._step(self.weight.scaling)
        self.rounded.copy_(torch.round(self.source / step) * step)

    def _step(self, weight: Scaling) -> Tensor:
        assert self.activation.scaling is not None, "calibrate before rounding biases"
        return bias_step(self.activation.scaling.scale, weight.scale.flatten(), self.weight.grid)


def make_integer_biases(placed: fx.GraphModule, units: Sequence[Unit]) -> dict[str, IntegerBias]:
    """Give the quantized graphs biases of their own, which can be rounded; keyed by the layer's node.

    Args:
        placed: the whole graph.
        units: its units; their float graphs keep the float biases.
    """
    nodes = {node.name: node for node in placed.graph.nodes}
    made: dict[str, IntegerBias] = {}
    for unit in units:
        for node in list(unit.quantized.graph.nodes):
            # In the whole graph, because the quantizer may belong to a unit before this one.
            found = _find(placed, nodes[node.name]) if node.target in LAYER_OPERATORS else None
            if found is not None:
                made[node.name] = found
                name = f"{node.args[2].target}_rounded"
                for module, layer in ((unit.quantized, node), (placed, nodes[node.name])):
                    _replace(module, layer, name, found.rounded)
        unit.quantized.recompile()
    placed.recompile()
    return made


def _find(module: fx.GraphModule, layer: fx.Node) -> IntegerBias | None:
    operands = [*layer.args[:3], None][:3]
    if not all(isinstance(operand, fx.Node) for operand in operands):
        return None
    source, weight, bias = operands
    assert isinstance(source, fx.Node)
    assert isinstance(weight, fx.Node)
    assert isinstance(bias, fx.Node)
    if (source.op, weight.op, bias.op) != ("call_module", "call_module", "get_attr"):
        return None
    activation_quantizer = module.get_submodule(str(source.target))
    weight_quantizer = module.get_submodule(str(weight.target))
    if not isinstance(activation_quantizer, ActivationQuantizer):
        return None
    if not isinstance(weight_quantizer, WeightQuantizer):
        return None
    value = attrgetter(str(bias.target))(module)
    if not (activation_quantizer.uniform and weight_quantizer.uniform):
        return None  # products of powers are no multiples of one step
    if weight_quantizer.scaling.scale.numel() not in (1, value.numel()):
        return None  # a grouped transposed convolution has fewer scales than outputs
    rounded = nn.Parameter(value.detach().clone(), requires_grad=False)
    return IntegerBias(value, rounded, activation_quantizer, weight_quantizer)


def _replace(module: fx.GraphModule, layer: fx.Node, path: str, value: nn.Parameter) -> None:
    """Let `layer` read `value` under a free name; a layer that is called twice has a bias per call."""
    owner_path, _, name = path.rpartition(".")
    owner = module.get_submodule(owner_path)
    name = free_name(owner, name)
    owner.register_parameter(name, value)
    with layer.graph.inserting_before(layer):
        attribute = layer.graph.get_attr(f"{owner_path}.{name}" if owner_path else name)
    attribute.meta = dict(layer.args[2].meta)  # type: ignore[union-attr]
    layer.update_arg(2, attribute)
