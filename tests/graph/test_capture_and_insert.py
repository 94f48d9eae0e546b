"""Capture leaves the caller's model alone and writes into nothing; placement follows its conventions."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

import mrecg
import toys
from mrecg.config.settings import ActivationSettings, LayerOverride, Placement, TensorSettings
from mrecg.errors import CaptureError, RecipeError
from mrecg.graph.capture import capture
from mrecg.graph.insert import PlacedQuantizer, place
from mrecg.graph.layers import layer_name, layers_of, module_path
from mrecg.graph.operands import cannot_be_negative
from mrecg.graph.recipe_placement import RecipePlacement
from mrecg.paper.networks import build
from mrecg.prepare.quantizers import make_activation


class Through(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def placed_in(
    model: nn.Module, x: Tensor, settings: Placement, symmetric: bool = False
) -> dict[str, PlacedQuantizer]:
    placement = RecipePlacement(
        settings,
        TensorSettings(bits=2, symmetric=symmetric),
        ActivationSettings(bits=4, symmetric=symmetric),
    )
    _, quantizers = place(
        capture(model, x), placement, lambda request, weight: Through(), lambda request: Through()
    )
    return {(q.tensor if q.is_weight else "+".join(q.readers)): q for q in quantizers}


@pytest.mark.parametrize("name", toys.TOYS)
def test_capture_changes_neither_model_nor_input(name: str) -> None:
    model = toys.make(name).train()
    before, x = copy.deepcopy(model.state_dict()), toys.images(3)
    kept = x.clone()
    captured = capture(model, x)
    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    results = captured(x)
    assert torch.equal(x, kept)
    expected = model.eval()(x)
    for got, wanted in zip(_tuple(results), _tuple(expected), strict=True):
        torch.testing.assert_close(got, wanted)
    assert _tuple(captured(toys.images(7)))[0].shape[0] == 7  # the batch is dynamic


def _tuple(value: object) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", toys.TOYS)
def test_no_operator_writes_into_its_input(name: str) -> None:
    captured = capture(toys.make(name), toys.images(2))
    for node in captured.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            assert not node.target._schema.is_mutable
            assert node.target is not torch.ops.aten.dropout.default


def test_in_place_result_replaces_later_reads() -> None:
    class AddsInPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            y.add_(1)
            z = y * 3
            y.mul_(z)
            return y + z

    x = toys.images(2)
    torch.testing.assert_close(capture(AddsInPlace(), x)(x), (2 * x + 1) * (6 * x + 3) + 6 * x + 3)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (toys.BranchOnData(), "in inner.1, at 'if x.sum"),
        (toys.ChangesWhatAViewReads(), "aten.relu_.default.*a view of it is read afterwards"),
        (build("resnet18_small"), "in conv1"),
    ],
)
def test_what_cannot_be_captured_names_the_culprit(model: nn.Module, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        capture(model, toys.images(2))


def test_nodes_know_their_module() -> None:
    graph = capture(toys.make("residual"), toys.images(2)).graph
    paths = {module_path(node) for node in graph.nodes}
    assert {"stem", "stage.one.a", "stage.two.project", "fc"} <= paths


IMAGE = torch.randn(2, 1, 28, 28)


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
        graph, _ = place(
            capture(toys.make("functional-residual"), toys.images(2)),
            placement,
            lambda request, weight: Through(),
            lambda request: Through(),
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

    (output,) = capture(Network(), toys.images(2)).graph.output_node().all_input_nodes
    assert cannot_be_negative(output) is not signed


def test_any_pt2e_quantizer_can_place() -> None:
    """torchao's quantizer for x86: its own grids, reconstructed by us."""
    vendor = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    recipe = mrecg.preset("w8a8-brecq", {"reconstruct.steps": 3, "reconstruct.batch_size": 8})
    model, x = toys.make("residual"), toys.images(16)
    quantized = mrecg.quantize(model, x, recipe=recipe, quantizer=vendor)
    weights = [q for q in quantized.record.quantizers if q.kind == "weight"]
    assert len(weights) == len([m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)])
    assert all(q.low in (-128, -127) and q.high == 127 for q in weights)
    torch.testing.assert_close(quantized.model(x), model(x), rtol=0.2, atol=0.1)


def test_a_fixed_grid_is_kept() -> None:
    from mrecg.graph.insert import QuantizerRequest

    request = QuantizerRequest(0, 255, False, None, fixed=(1 / 256, 0))
    quantizer = make_activation(request, ActivationSettings(bits=8))
    torch.testing.assert_close(quantizer(torch.tensor([0.5])), torch.tensor([0.5]))


class _Standardized(nn.Conv2d):
    """Weight standardization, as in the normalizer-free networks: the weight is computed in the forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = functional.batch_norm(flat, None, None, training=True).reshape_as(self.weight)
        return functional.conv2d(x, weight, self.bias, padding=1)


class _Views(nn.Module):
    """A view that exists in one memory layout only: convolutions run in another one than this was written for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).view(x.shape[0], 8, 32))


def test_views_in_any_memory_layout() -> None:
    recipe = mrecg.preset("w8a8-rtn")
    quantized = mrecg.quantize(_Views(), toys.images(), recipe=recipe)
    assert quantized.model(toys.images(3)).shape == (3, 8, 5)


class _Masked(nn.Module):
    """Writes a mask piece by piece, as shifted windows do, into a tensor that is asked of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        mask = x.new_zeros((8, 8))
        mask[0:4, 2:] = 1
        mask[4:, :3] = 2
        return self.conv(x) + mask.unsqueeze(0).masked_fill(mask != 1, -3.0)


def test_weights_computed_from_parameters_are_quantized_like_others() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(_Standardized(2, 4, 3), nn.ReLU(), _Standardized(4, 4, 3)).eval()
    before = copy.deepcopy(model.state_dict())
    captured = capture(model, toys.images(2))
    assert [layer_name(layer) for layer in layers_of(captured.graph)] == ["0", "2"]
    assert torch.equal(captured(toys.images()), model(toys.images()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    record = mrecg.quantize(model, toys.images(), recipe=mrecg.preset("w8a8-rtn")).record
    assert record.left_in_float == ()
    assert [unit.name for unit in record.units] == ["0", "2"]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "normalized",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
    ],
)
def test_parametrized_weights_are_quantized_like_others(
    normalized: Callable[[nn.Module], nn.Module],
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(normalized(nn.Conv2d(2, 4, 3)), nn.ReLU(), nn.Conv2d(4, 3, 3)).eval()
    captured = capture(model, toys.images(2))
    assert [layer_name(layer) for layer in layers_of(captured.graph)] == ["0", "2"]
    torch.testing.assert_close(captured(toys.images()), model(toys.images()))
    record = mrecg.quantize(model, toys.images(), recipe=mrecg.preset("w8a8-rtn")).record
    assert record.left_in_float == ()
    assert [unit.name for unit in record.units] == ["0", "2"]


def test_a_mask_written_piece_by_piece_is_a_constant() -> None:
    model = _Masked().eval()
    captured = capture(model, toys.images(2))
    assert torch.equal(captured(toys.images(5)), model(toys.images(5)))


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
