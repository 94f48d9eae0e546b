"""Placements that ask for what no recipe does."""

import torch
from torch import Tensor, fx, nn
from torchao.quantization.pt2e.quantizer import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    SharedQuantizationSpec,
)

from mrecg.config.recipe import Recipe
from mrecg.graph.recipe_placement import RecipePlacement


class _OfRecipe(RecipePlacement):
    """The recipe's placement, but for what a class changes."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe.placement, recipe.weight, recipe.activation)


class Prescribed(_OfRecipe):
    """One scale for all activations, given from outside."""

    def _activation_spec(self, tensor: fx.Node, bits: int) -> FixedQParamsQuantizationSpec:  # type: ignore[override]
        return FixedQParamsQuantizationSpec(torch.uint8, 1 / 64, 100, 0, 255)


class SharedRange(_OfRecipe):
    """All that a concatenation joins has one range, as integer backends need it."""

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        super().annotate(model)
        joins = [n for n in model.graph.nodes if n.target is torch.ops.aten.cat.default]
        for join in joins:
            first, *others = join.all_input_nodes
            edges = {first: self._activation_spec(first, 8)}
            edges |= {one: SharedQuantizationSpec((first, join)) for one in others}
            join.meta["quantization_annotation"] = QuantizationAnnotation(
                input_qspec_map=edges,
                output_qspec=SharedQuantizationSpec((first, join)),
                _annotated=True,
            )
        return model


class TwoWidths(_OfRecipe):
    """Every layer wants its input in a width of its own."""

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        super().annotate(model)
        layers = [n for n in model.graph.nodes if n.target is torch.ops.aten.conv2d.default]
        for layer in layers:
            layer.args[0].meta.pop("quantization_annotation", None)
        for layer in layers:
            source, weight = layer.args[:2]
            bits = 2 if weight.target == "b.weight" else 8
            layer.meta["quantization_annotation"] = QuantizationAnnotation(
                input_qspec_map={
                    source: self._activation_spec(source, bits),
                    weight: self._weight_spec(layer, 8),
                },
                _annotated=True,
            )
        return model


class Padded(_OfRecipe):
    """Also quantizes the weight of a convolution whose padding is named, which no recipe does."""

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        super().annotate(model)
        for layer in model.graph.nodes:
            if layer.target is torch.ops.aten.conv1d.padding:
                layer.meta["quantization_annotation"] = QuantizationAnnotation(
                    input_qspec_map={layer.args[1]: self._weight_spec(layer, 3)}, _annotated=True
                )
        return model


class Joined(nn.Module):
    """Two branches of very different size, the larger one first; a ReLU ends each of the given ones."""

    def __init__(self, *relus: str) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1)
        self.fc = nn.Conv2d(8, 3, 1)
        self.relus = relus

    def forward(self, x: Tensor) -> Tensor:
        a, b = 20 * self.a(x), self.b(x)
        a, b = (y.relu() if name in self.relus else y for name, y in (("a", a), ("b", b)))
        return self.fc(torch.cat([a, b], 1))
