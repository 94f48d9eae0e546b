"""Weights computed from parameters and masks written piece by piece are constants of the graph."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import mrecg
import toys
from mrecg.graph.capture import capture_graph
from mrecg.graph.layers import layer_name, layers_of


class _Standardized(nn.Conv2d):
    """Weight standardization, as in the normalizer-free networks: the weight is computed in the forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = functional.batch_norm(flat, None, None, training=True).reshape_as(self.weight)
        return functional.conv2d(x, weight, self.bias, padding=1)


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
    captured = capture_graph(model, toys.images(2))
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
    captured = capture_graph(model, toys.images(2))
    assert [layer_name(layer) for layer in layers_of(captured.graph)] == ["0", "2"]
    torch.testing.assert_close(captured(toys.images()), model(toys.images()))
    record = mrecg.quantize(model, toys.images(), recipe=mrecg.preset("w8a8-rtn")).record
    assert record.left_in_float == ()
    assert [unit.name for unit in record.units] == ["0", "2"]


class _MakesFilters(nn.Module):
    """Weights that the forward makes of numbers, two of them in one module, and two that it computes of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (
            nn.Parameter(torch.randn(4, 2, 1, 1)),
            nn.Parameter(torch.randn(4, 4, 1, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.conv2d(x, torch.full((2, 1, 3, 3), 1 / 9), groups=2)
        y = functional.conv2d(functional.conv2d(y, self.a.sin()), self.b.cos()).relu()
        y = functional.conv2d(
            y, torch.tensor([1.0, 2, 1]).view(1, 1, 3, 1).repeat(4, 1, 1, 1), groups=4
        )
        return functional.linear(y.mean((2, 3)), torch.ones(3, 4))


def test_weights_made_in_the_forward_are_layers_with_names_of_their_own() -> None:
    torch.manual_seed(0)
    model = _MakesFilters().eval()
    captured = capture_graph(model, toys.images(2))
    torch.testing.assert_close(captured(toys.images()), model(toys.images()))
    names = [layer_name(layer) for layer in layers_of(captured.graph)]
    assert len(set(names)) == len(names) == 5
    quantized = mrecg.quantize(model, toys.images(), recipe="w8a8-rtn")
    assert quantized.record.left_in_float == ()
    error = (quantized.model(toys.images()) - model(toys.images())).norm()
    assert error < 0.03 * model(toys.images()).norm()


def test_a_mask_written_piece_by_piece_is_a_constant() -> None:
    model = _Masked().eval()
    captured = capture_graph(model, toys.images(2))
    assert torch.equal(captured(toys.images(5)), model(toys.images(5)))
