"""Deployment targets: only codes, scales and tensors that each allows."""

import math

import pytest
import torch
from torch import Tensor, nn

import mrecg
import toys
from mrecg.config.settings import ActivationSettings, Placement, TensorSettings
from mrecg.config.targets import BACKENDS
from mrecg.errors import RecipeError
from mrecg.graph.capture import capture_graph
from mrecg.graph.insert import insert_quantizers
from mrecg.graph.layers import layers_of
from mrecg.graph.operands import find_operands
from mrecg.graph.recipe_placement import RecipePlacement


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        *((backend, "functional-residual") for backend in BACKENDS),
        ("tensorrt", "dense"),
        ("vitis", "inception"),
    ],
)
def test_a_backend_gets_only_codes_and_scales_that_it_allows(backend: str, name: str) -> None:
    """Learned, not only calibrated: a scale must stay on the target's grid while it changes."""
    target = BACKENDS[backend]
    recipe = mrecg.preset("w8a8-brecq", {"reconstruct.steps": 3, "reconstruct.batch_size": 8})
    quantized = mrecg.quantize(toys.make(name), toys.images(16), recipe=recipe.for_backend(backend))
    assert quantized.record.quantizers
    for found in quantized.record.quantizers:
        widest = target.weight_bits if found.kind == "weight" else target.activation_bits
        assert found.high - found.low < 2**widest
        if not target.settings[f"{found.kind}.symmetric"]:
            assert found.low == 0
        elif target.settings[f"{found.kind}.narrow"]:
            assert found.low == -found.high
        else:
            unsigned = found.kind == "activation" and target.settings["activation.unsigned"]
            assert found.low == -found.high - 1 or (unsigned and found.low == 0)
        if target.settings[f"{found.kind}.power_of_two"]:
            assert all(math.frexp(scale)[0] == 0.5 for scale in found.scales)
        if target.settings[f"{found.kind}.logarithmic"]:
            exponents = [16 * math.log2(scale) for scale in found.scales]
            assert exponents == pytest.approx([round(exponents[0])] * 2, abs=1e-5)
            assert (found.low, found.high) == (-128, 127)
    for key, value in quantized.program.state_dict.items():
        if key.endswith("zero_point"):
            kind = "weight" if "quantized_" in key else "activation"
            assert not (target.settings[f"{kind}.symmetric"] and value.any()), key
            if kind == "activation" or not target.settings["placement.per_channel_weights"]:
                assert len(value.unique()) == 1, key


def readers_of(name: str, tensors: str) -> set[str]:
    settings = Placement(tensors=tensors, first_last="same")
    placement = RecipePlacement(settings, TensorSettings(bits=8), ActivationSettings(bits=8))
    _, quantizers = insert_quantizers(
        capture_graph(toys.make(name), toys.images(2)),
        placement,
    )
    return {q.tensor for q in quantizers if not q.is_weight}


def test_more_tensors_are_quantized_for_integer_execution() -> None:
    layers, operands, everything = (
        readers_of("residual", tensors) for tensors in ("layers", "operands", "all")
    )
    assert layers < operands < everything
    assert not any("add" in tensor for tensor in layers - {t for t in layers if "relu" in t})


def test_an_addend_stays_in_the_accumulator_of_its_layer() -> None:
    graph = capture_graph(toys.make("functional-residual"), toys.images(2)).graph
    fused, both = (
        find_operands(graph, fuse_additions=True),
        find_operands(graph, fuse_additions=False),
    )
    assert set(fused) < set(both)
    assert all(node in layers_of(graph) for node in set(both) - set(fused))


def test_unsigned_codes_only_where_nothing_is_negative() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.c = nn.Conv2d(4, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.max_pool2d(torch.relu(self.a(x)), 2)
            return self.c(self.b(x) - 1)

    settings = ActivationSettings(bits=8, symmetric=True, unsigned=True)
    placement = RecipePlacement(Placement(), TensorSettings(bits=8, symmetric=True), settings)
    _, quantizers = insert_quantizers(
        capture_graph(Net(), torch.randn(2, 3, 24, 24)),
        placement,
    )
    lows = {"+".join(q.readers): q.request.low for q in quantizers if not q.is_weight}
    assert lows == {"a": -128, "b": 0, "c": -128}


def test_a_recipe_that_the_backend_cannot_execute_is_refused() -> None:
    recipe = mrecg.preset("w4a4-qdrop").for_backend("tensorrt")
    assert recipe.weight.bits == 4  # fewer bits than the target's containers hold are fine
    for key, value, message in [
        ("weight.symmetric", False, "needs weight.symmetric = True, got False"),
        ("placement.tensors", "layers", "needs placement.tensors = fused-operands"),
        ("activation.bits", 16, "at most 8 bits, got 16"),
        ("placement.backend", "tensort", "did you mean 'tensorrt'"),
        ("placement.overrides", [{"layers": "*", "weight_bits": 16}], "at most 8 bits, got 16"),
    ]:
        with pytest.raises(RecipeError, match=message):
            recipe.override({key: value})
    with pytest.raises(RecipeError, match="did you mean 'openvino'"):
        recipe.for_backend("openvin")
    with pytest.raises(RecipeError, match="weights of exactly 8 bits, got 4"):
        recipe.for_backend("nnie")
    with pytest.raises(RecipeError, match="cannot be float"):
        mrecg.preset("w4a4-rtn", {"placement.tensors": "all", "placement.shortcut": "float"})
