"""Biases that integer hardware adds to sums of codes: whole multiples of the accumulator's scale."""

import pytest
import torch
from torch import Tensor, nn

import mrecg
import toys
from mrecg.preparation.integer_bias import LARGEST_BIAS, IntegerBias
from mrecg.preparation.prepared_graph import prepare_graph
from mrecg.quantizers.grid import Scaling, UniformGrid
from mrecg.quantizers.weight import WeightQuantizer
from toys import normal

ACTIVATION = Scaling(torch.tensor(0.5), torch.tensor(0.0))


def bias(values: Tensor, scale: Tensor, bits: int, fixed_scale: bool = False) -> IntegerBias:
    scaling = Scaling(scale, torch.zeros_like(scale))
    grid = UniformGrid(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, True)
    return IntegerBias(values, "bias", "x", "w", WeightQuantizer(grid, scaling, fixed_scale))


@pytest.mark.parametrize(("bits", "shift"), [(8, 1), (4, 4), (2, 16)])
def test_a_bias_is_the_nearest_multiple(bits: int, shift: int) -> None:
    """Of the product of both scales; narrow codes are stored shifted, which makes the multiples finer."""
    scale, values = torch.tensor([0.25, 0.5, 2.0]).view(3, 1), normal(3)
    found = bias(values, scale, bits)
    rounded = found.round(ACTIVATION, found.quantizer.calibrated)
    unit = 0.5 * scale.flatten() / shift
    assert torch.equal((rounded / unit).round() * unit, rounded)
    assert ((rounded - values).abs() <= unit / 2).all()


@pytest.mark.parametrize("fixed_scale", [False, True])
def test_scales_are_widened_where_32_bits_cannot_hold_a_bias(fixed_scale: bool) -> None:
    """A channel of tiny weights has a tiny scale; the bias is worth more than its weights' codes."""
    scale, values = torch.tensor([2.0**-40, 0.25]).view(2, 1), torch.tensor([3.0, 3.0])
    found = bias(values, scale, 8, fixed_scale)
    calibrated = found.quantizer.calibrated
    widened = found.widen(ACTIVATION, calibrated)
    assert widened.scale[1] == scale[1]
    assert widened.scale[0] > scale[0]
    rounded = found.round(ACTIVATION, widened)
    unit = ACTIVATION.scale * widened.scale.flatten()
    assert ((rounded / unit).abs() <= LARGEST_BIAS * (1 + 1e-6)).all()
    torch.testing.assert_close(rounded, values, rtol=0.1, atol=0)
    if fixed_scale:  # a power of two stays one
        assert (torch.frexp(widened.scale).mantissa == 0.5).all()
    assert torch.equal(calibrated.scale, scale)
    assert found.widen(ACTIVATION, widened) is widened  # wide enough


def test_a_layer_that_is_called_twice_has_a_bias_per_call() -> None:
    recipe = mrecg.preset("w4a4-brecq")
    prepared = prepare_graph(toys.make("shared"), toys.images(4), recipe, None)
    of_twice = [one for one in prepared.biases.values() if one.float_path == "twice.bias"]
    assert len(of_twice) == 2
    assert len({one.activation for one in of_twice}) == 2
    assert len({one.weight for one in of_twice}) == 1


@pytest.mark.parametrize("backend", [None, "nnie"])
def test_only_sums_of_codes_round_biases(backend: str | None) -> None:
    """Logarithms have no scale that a bias could be a multiple of, a float layer has no codes."""
    recipe = mrecg.preset("w8a8-rtn")
    if backend:
        recipe = recipe.for_backend(backend)
    recipe = recipe.override(
        {"placement.overrides": [{"layers": "stage.two.*", "weight_bits": 32}]}
    )
    prepared = prepare_graph(toys.make("residual"), toys.images(4), recipe, None)
    rounded = {one.float_path for one in prepared.biases.values()}
    layers = [
        n for n, m in toys.make("residual").named_modules() if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    expected = {f"{name}.bias" for name in layers if not name.startswith("stage.two")}
    assert rounded == (expected if backend is None else set())


def test_what_ships_is_rounded_to_the_scales_that_ship() -> None:
    """Scales are learned after the calibration; the biases of the finished model follow them."""
    settings = {"reconstruct.steps": 8, "reconstruct.batch_size": 8}
    recipe = mrecg.preset("w4a4-brecq", settings)
    model = toys.make("residual")
    quantized = mrecg.quantize(model, toys.images(16), recipe=recipe)
    state = quantized.program.state_dict
    scales = {one.readers: one for one in quantized.record.quantizers if one.kind == "activation"}
    for name in ("stem", "stage.one.b", "fc"):
        (activation,) = [one for readers, one in scales.items() if name in readers]
        shift = 1 if name in ("stem", "fc") else 4
        unit = activation.scales[0] * state[f"{name}.quantized_weight.scale"] / shift
        shipped, given = state[f"{name}.bias_rounded"], model.get_parameter(f"{name}.bias")
        codes = shipped / unit
        torch.testing.assert_close(codes, codes.round(), rtol=1e-5, atol=1e-3)
        assert ((shipped - given).abs() <= 0.501 * unit).all()
