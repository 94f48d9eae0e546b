"""A recipe's placement follows the papers' conventions: which tensors have quantizers, and which grids."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

import mrecg
import toys
from mrecg.config.settings import ActivationSettings, LayerOverride, Placement, TensorSettings
from mrecg.errors import RecipeError
from mrecg.graph.capture import capture_graph
from mrecg.graph.insert import PlacedQuantizer, insert_quantizers
from mrecg.graph.operands import cannot_be_negative
from mrecg.graph.recipe_placement import RecipePlacement
from mrecg.paper.networks import build

IMAGE = torch.randn(2, 1, 28, 28)


def placed_in(
    model: nn.Module, x: Tensor, settings: Placement, symmetric: bool = False
) -> dict[str, PlacedQuantizer]:
    placement = RecipePlacement(
        settings,
        TensorSettings(bits=2, symmetric=symmetric),
        ActivationSettings(bits=4, symmetric=symmetric),
    )
    _, quantizers = insert_quantizers(
        capture_graph(model, x),
        placement,
    )
    return {(q.tensor if q.is_weight else "+".join(q.readers)): q for q in quantizers}


def test_qdrop_setting() -> None:
    found = placed_in(build("resnet18_small"), IMAGE, Placement(first_last="qdrop"))
    assert found["conv1"].request.bits == 8  # the image
    assert found["conv1.weight"].request.bits == 8
    assert found["layer1.0.conv1"].request.bits == 4  # the first layer's output
    assert found["fc"].request.bits == 8
    assert found["fc.weight"].request.bits == 8
    assert found["layer3.0.conv1.weight"].request.bits == 2
    assert found["layer2.0.downsample.0+layer2.0.conv1"].request.bits == 4
    low = [name for name, q in found.items() if q.request.bits == 8]
    assert sorted(low) == ["conv1", "conv1.weight", "fc", "fc.weight"]


def test_brecq_setting_keeps_the_input_of_the_second_layer() -> None:
    found = placed_in(build("resnet18_small"), IMAGE, Placement(first_last="brecq"))
    assert found["layer1.0.conv1"].request.bits == 8
    assert found["layer1.0.conv1.weight"].request.bits == 2
    assert found["layer1.0.conv2"].request.bits == 4


def test_first_and_last_are_found_by_role() -> None:
    """An operator before the first or after the last layer does not move the mark."""

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = toys.make("residual")

        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(self.inner(x * 2 - 1), 1)

    found = placed_in(Wrapped(), toys.images(2), Placement())
    eight = sorted(name for name, q in found.items() if q.request.bits == 8)
    assert eight == ["inner.fc", "inner.fc.weight", "inner.stem", "inner.stem.weight"]


def test_shortcut_conventions_differ_in_what_the_addition_reads() -> None:
    def reads_quantized(shortcut: str) -> bool:
        placement = RecipePlacement(
            Placement(shortcut=shortcut),
            TensorSettings(bits=2),
            ActivationSettings(bits=4),
        )
        graph, _ = insert_quantizers(
            capture_graph(toys.make("functional-residual"), toys.images(2)),
            placement,
        )
        addition = next(n for n in graph.graph.nodes if n.target is torch.ops.aten.add.Tensor)
        return any(isinstance(a, fx.Node) and a.op == "call_module" for a in addition.args)

    assert reads_quantized("quantized")
    assert not reads_quantized("float")


def test_overrides_apply_in_order() -> None:
    overrides = (
        LayerOverride(layers="layer3.*", weight_bits=4),
        LayerOverride(layers="layer3.0.conv2", weight_bits=8, activation_bits=32),
    )
    found = placed_in(build("resnet18_small"), IMAGE, Placement(overrides=overrides))
    assert found["layer3.1.conv1.weight"].request.bits == 4
    assert found["layer3.0.conv2.weight"].request.bits == 8
    assert found["layer2.0.conv1.weight"].request.bits == 2
    assert "layer3.0.conv2" not in found  # its input stays in float


def test_an_override_that_matches_nothing_is_an_error() -> None:
    overrides = (LayerOverride(layers="layer9.*", weight_bits=4),)
    with pytest.raises(RecipeError, match=r"'layer9\.\*' matches no layer.*layer1\.0\.conv1"):
        placed_in(build("resnet18_small"), IMAGE, Placement(overrides=overrides))


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_weight_grids(symmetric: bool, per_channel: bool) -> None:
    settings = Placement(per_channel_weights=per_channel)
    request = placed_in(toys.make("chain"), toys.images(2), settings, symmetric)["2.weight"].request
    assert (request.low, request.high) == ((-2, 1) if symmetric else (0, 3))
    assert request.symmetric is symmetric
    assert request.channel_axis == (0 if per_channel else None)


@pytest.mark.parametrize(
    ("function", "signed"),
    [
        (lambda x: x.relu(), False),
        (lambda x: x.relu() + 1, False),
        (lambda x: x.relu() * 2, False),
        (lambda x: x.relu() - 1, True),
        (lambda x: x.relu() + -1, True),
        (lambda x: x.relu() * -2, True),
        (lambda x: torch.add(x.relu(), x.sigmoid(), alpha=-1), True),
        (lambda x: torch.add(x.relu(), x.sigmoid(), alpha=2), False),
    ],
)
def test_what_can_be_negative_needs_signed_codes(
    function: Callable[[Tensor], Tensor], signed: bool
) -> None:
    class Network(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    (output,) = capture_graph(Network(), toys.images(2)).graph.output_node().all_input_nodes
    assert cannot_be_negative(output) is not signed


class _Lambda(nn.Module):
    """A three-dimensional convolution and one whose weight the images decide; neither can be quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.position = nn.Conv3d(1, 4, (3, 3, 3), padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        weight = y.mean((0, 2, 3), keepdim=True).view(1, 4, 1, 1)
        return functional.conv2d(y, weight) + self.position(y.unsqueeze(1)).mean((1, 2)).unsqueeze(
            1
        )


def test_convolutions_that_cannot_be_quantized_are_listed() -> None:
    torch.manual_seed(0)
    recipe = mrecg.preset("w8a8-rtn")
    record = mrecg.quantize(_Lambda().eval(), toys.images(), recipe=recipe).record
    assert record.left_in_float == ("the model itself", "position")
    assert [unit.name for unit in record.units] == ["conv"]


class _Tied(nn.Module):
    """A convolution and its transpose: their output channels are on different axes of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.middle = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.middle(self.encode(x).relu()).relu()
        return functional.conv_transpose2d(y, self.encode.weight)


def test_a_weight_with_output_channels_on_two_axes_has_no_grid_for_each() -> None:
    x = toys.images(2)
    found = placed_in(
        _Tied().eval(), x, Placement(overrides=[LayerOverride(layers="encode", weight_bits=8)])
    )
    assert [name for name in found if "weight" in name] == ["middle.weight"]
    found = placed_in(_Tied().eval(), x, Placement(per_channel_weights=False))
    assert found["encode.weight"].request.channel_axis is None
