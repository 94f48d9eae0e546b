"""Rounding in closed form within a network: layer after layer, on what each reads, whatever the layers are."""

import pytest
import torch
from torch import Tensor, nn

import mrecg
import toys
from mrecg.cache.activation_cache import ActivationCache
from mrecg.errors import RecipeError
from mrecg.optimize import closed_form
from mrecg.optimize.closed_form import round_in_closed_form
from mrecg.optimize.reconstruction import calibrate_units, round_to_nearest
from mrecg.preparation.prepared_graph import PreparedGraph, prepare_graph
from mrecg.quantizers.error_feedback import round_with_feedback
from mrecg.quantizers.state import QuantizerState


class Upsampling(nn.Sequential):
    """Transposed convolutions, dense and grouped, behind a depthwise one."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(2, 6, 3, padding="same"),
            nn.Conv2d(6, 6, 3, padding=1, groups=6),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 4, 2, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 4, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.Conv2d(4, 4, 1),
        )


def state_of(
    prepared: PreparedGraph, x: Tensor, recipe: mrecg.Recipe
) -> tuple[QuantizerState, ActivationCache]:
    """All units as one group, rounded to nearest, with a cache of what they read."""
    cache = ActivationCache(prepared.chain, x, prepared.device)
    units = prepared.chain.units
    ranges, _ = calibrate_units(prepared, cache, units, recipe)
    return round_to_nearest(prepared, units, QuantizerState(), ranges), cache


@pytest.mark.parametrize(
    ("model", "granularity"),
    [
        (toys.Residual, "layer"),
        (toys.Residual, "block"),
        (toys.VisionTransformer, "layer"),
        (toys.Shared, "layer"),
        (Upsampling, "block"),
    ],
)
def test_no_unit_ends_further_off_than_rounded_to_nearest(
    model: type[nn.Module], granularity: str
) -> None:
    torch.manual_seed(0)
    recipe = mrecg.preset("w3a8-qronos", {"plan.granularity": granularity})
    record = mrecg.quantize(model().eval(), toys.images(16), recipe=recipe, progress=False).record
    gains = [1 - unit.loss / unit.nearest_loss for unit in record.units if unit.nearest_loss]
    assert min(gains) >= 0
    assert max(gains) > 0.05
    assert all(group.steps == 0 for group in record.groups)


def test_a_layer_is_rounded_on_what_it_reads_behind_those_before_it() -> None:
    """The second layer of a group, recomputed from the outputs of the first as it was rounded."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)).eval()
    x = torch.randn(32, 6)
    recipe = mrecg.preset("w3a8-qronos", {"placement.first_last": "same"})
    prepared = prepare_graph(model, x, recipe, None)
    nearest, cache = state_of(prepared, x, recipe)
    found = round_in_closed_form(prepared, cache, prepared.chain.units, nearest)
    name = list(prepared.weights)[1]
    quantize = prepared.activations[prepared.chain.units[1].activations[0]]
    bound = prepared.bind(prepared.chain.units, found)
    (first,) = prepared.chain.units[0].quantized(
        x, *(bound[one] for one in prepared.chain.units[0].bindings)
    )
    read = quantize.fix(found.activations[prepared.chain.units[1].activations[0]])(first, None)
    read, ideal, weight = (one.detach().double() for one in (read, model[0](x), model[1].weight))
    scaling = type(nearest.weights[name].scaling)(
        *(one.double().expand_as(weight)[None] for one in nearest.weights[name].scaling)
    )
    shift = read.T @ (ideal - read) @ weight.T
    codes = round_with_feedback(
        weight[None], (read.T @ read)[None], shift[None], prepared.weights[name].grid, scaling
    )
    assert torch.equal(found.weights[name].codes.double(), codes[0])
    assert not torch.equal(found.weights[name].codes, nearest.weights[name].codes)
    assert found.weights[name].scaling is nearest.weights[name].scaling


def test_parts_of_the_images_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, recipe = toys.images(12), mrecg.preset("w3a8-qronos")
    prepared = prepare_graph(toys.Residual().eval(), x, recipe, None)
    nearest, cache = state_of(prepared, x, recipe)
    unit = prepared.chain.units[1:2]
    whole = round_in_closed_form(prepared, cache, prepared.chain.units[:2], nearest)
    monkeypatch.setattr(closed_form, "images_per_pass", lambda unit: 5)
    monkeypatch.setattr(closed_form, "_LARGEST_PATCHES", 1)
    parts = round_in_closed_form(prepared, cache, prepared.chain.units[:2], nearest)
    for name in unit[0].weights:
        differ = whole.weights[name].codes != parts.weights[name].codes
        assert float(differ.float().mean()) < 0.01  # sums of other order


def test_excluded_layers_stay_rounded_to_nearest_and_logarithms_have_neighbors_too() -> None:
    torch.manual_seed(0)
    model, x = toys.Chain().eval(), toys.images(8)
    excluded = mrecg.preset("w4a8-qronos", {"reconstruct.exclude": ["*"]})
    found, nearest = (
        mrecg.quantize(model, x, recipe=one, progress=False).model(x)
        for one in (excluded, mrecg.preset("w4a8-rtn", {"plan.granularity": "layer"}))
    )
    assert torch.equal(found, nearest)
    nnie = mrecg.preset("w8a8-qronos").for_backend("nnie")
    units = mrecg.quantize(model, x, recipe=nnie, progress=False).record.units
    assert all(unit.loss <= unit.nearest_loss for unit in units)


def test_steps_are_refused() -> None:
    with pytest.raises(RecipeError, match="rounding = qronos takes no steps, got steps = 5"):
        mrecg.preset("w3a8-qronos", {"reconstruct.steps": 5})
