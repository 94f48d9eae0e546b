"""Networks whose codes are logarithms (NNIE), end to end."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

import mrecg
import toys
from logarithms import CODES, by_formula, levels_for
from mrecg.config.recipe import Recipe
from mrecg.errors import ExportError, RecipeError
from mrecg.export.pt2 import export_program
from mrecg.graph.recipe_placement import RecipePlacement
from mrecg.records.record import QuantizerRecord


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(functional.relu(self.conv(x)).mean((2, 3)))


def nnie(method: str) -> Recipe:
    steps = {} if method == "rtn" else {"reconstruct.steps": 20, "reconstruct.batch_size": 8}
    return mrecg.preset(f"w8a8-{method}", steps).for_backend("nnie")


def values_of(quantizer: QuantizerRecord) -> Tensor:
    """Every value of a grid: the smallest positive one is its scale."""
    return levels_for(quantizer.scales[0] * 2 ** (127 / 16)).dequantize(CODES)


def test_a_network_computes_the_formula() -> None:
    torch.manual_seed(0)
    model, images = Tiny().eval(), toys.images(16)
    quantized = mrecg.quantize(model, images, recipe=nnie("rtn"))

    def fake(x: Tensor, calibration: Tensor) -> Tensor:
        return by_formula(x, float(calibration.detach().abs().max()))

    with torch.no_grad():
        tensors = [images]
        tensors.append(functional.relu(model.conv(tensors[-1])))
        tensors.append(tensors[-1].mean((2, 3)))
        x = fake(images, tensors[0])
        x = functional.relu(
            functional.conv2d(x, fake(model.conv.weight, model.conv.weight), model.conv.bias)
        )
        x = fake(fake(x, tensors[1]).mean((2, 3)), tensors[2])
        expected = functional.linear(x, fake(model.fc.weight, model.fc.weight), model.fc.bias)
        torch.testing.assert_close(quantized.model(images), expected)


@pytest.mark.parametrize("method", ["rtn", "adaround", "brecq", "qdrop"])
def test_every_method_gives_codes_that_reload(method: str, tmp_path: Path) -> None:
    model, images = toys.make("residual"), toys.images(16)
    quantized = mrecg.quantize(model, images, recipe=nnie(method))
    if method != "rtn":
        assert sum(u.loss for u in quantized.record.units) < sum(
            u.nearest_loss for u in quantized.record.units
        )
    allowed = {found.tensor: values_of(found) for found in quantized.record.quantizers}
    state = quantized.program.state_dict
    weights = [key.removesuffix(".codes") for key in state if key.endswith(".codes")]
    assert len(weights) == sum(q.kind == "weight" for q in quantized.record.quantizers)
    for name in weights:
        assert state[f"{name}.codes"].dtype == torch.int8
        assert torch.equal(
            state[f"{name}.values"], allowed[name.replace("quantized_weight", "weight")]
        )
    assert not any("rounded" in key for key in state)  # no scale that a bias could be a multiple of
    loaded = mrecg.load(quantized.save(tmp_path / "run"))
    assert torch.equal(loaded.model(images), quantized.model(images))
    for key, value in state.items():
        assert torch.equal(loaded.program.state_dict[key], value), key


def test_activations_take_only_values_of_their_grid() -> None:
    """Where the finished program chooses between zero and a power, it has rounded a tensor."""
    quantized = mrecg.quantize(
        toys.make("functional-residual"), toys.images(16), recipe=nnie("brecq")
    )
    grids = [q for q in quantized.record.quantizers if q.kind == "activation"]
    seen: list[Tensor] = []

    class Watch(fx.Interpreter):
        def call_function(self, target: object, args: tuple, kwargs: dict) -> object:
            result = super().call_function(target, args, kwargs)
            if "where" in str(target):
                seen.append(result)
            return result

    Watch(quantized.model).run(toys.images(4, seed=5))
    assert len(seen) == len(grids)
    for tensor in seen:
        values = tensor.float().unique()
        fitting = [torch.isin(values, values_of(grid)).all() for grid in grids]
        assert any(fitting)


def test_a_finished_model_is_not_bound_to_a_device() -> None:
    quantized = mrecg.quantize(toys.make("chain"), toys.images(8), recipe=nnie("rtn"))
    outputs = quantized.model.to("meta")(toys.images(8).to("meta"))
    assert outputs.device.type == "meta"


def test_without_learned_weights_nothing_is_optimized() -> None:
    recipe = nnie("qdrop").override({"reconstruct.exclude": ["*"]})
    quantized = mrecg.quantize(toys.make("chain"), toys.images(8), recipe=recipe)
    assert all(unit.loss == unit.nearest_loss for unit in quantized.record.units)


def test_no_file_is_written_for_logarithms(tmp_path: Path) -> None:
    quantized = mrecg.quantize(toys.make("chain"), toys.images(8), recipe=nnie("rtn"))
    target = tmp_path / "folder" / "model"
    with pytest.raises(ExportError, match=r"'nnie' cannot be exported: its codes are logarithms"):
        mrecg.export_onnx(quantized, target)
    with pytest.raises(ExportError, match="the run folder holds its codes"):
        export_program(quantized, target)
    with pytest.raises(ExportError, match="logarithms"):
        mrecg.verify_onnx(quantized, target, toys.images(2))
    assert not target.parent.exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("weight.bits", 4, "weights of exactly 8 bits, got 4"),
        ("activation.bits", 16, "activations of exactly 8 bits, got 16"),
        ("placement.overrides", [{"layers": "*", "activation_bits": 2}], "exactly 8 bits, got 2"),
        ("placement.first_last_bits", 4, "exactly 8 bits, got 4"),
        ("weight.ranges.method", "error", "needs weight.ranges.method = minmax, got error"),
        ("weight.logarithmic", False, "needs weight.logarithmic = True"),
        ("placement.per_channel_weights", True, "needs placement.per_channel_weights = False"),
        ("placement.backend", "vitis", "needs weight.power_of_two = True"),
        ("placement.backend", "academic", "logarithmic codes need a backend"),
    ],
)
def test_what_the_target_cannot_hold_is_refused(key: str, value: object, message: str) -> None:
    assert nnie("qdrop").override({"placement.overrides": [{"layers": "*", "weight_bits": 32}]})
    with pytest.raises(RecipeError, match=message):
        nnie("qdrop").override({key: value})
    with pytest.raises(RecipeError, match="exactly 8 bits, got 4"):
        mrecg.preset("w4a8-brecq").for_backend("nnie")


def test_a_quantizer_of_your_own_must_ask_for_the_same_codes() -> None:
    other = mrecg.preset("w4a8-brecq")
    placement = RecipePlacement(other.placement, other.weight, other.activation)
    with pytest.raises(RecipeError, match="expected -128 to 127"):
        mrecg.quantize(toys.make("chain"), toys.images(8), recipe=nnie("rtn"), quantizer=placement)
