"""Sensitivity: a unit alone is what an override of its layers alone does to the whole, whatever the network's shape."""

import pytest
import torch
from torch.nn.functional import kl_div

import mrecg
import toys
from mrecg.config.settings import FLOAT_BITS
from mrecg.errors import MrecgError
from mrecg.records.sensitivity import Sensitivity

RECIPE = mrecg.preset(
    "w4a4-rtn", {"reconstruct.answer": "logits"}
)  # the toys were not trained for classes


def divergence(model: torch.nn.Module, other: torch.nn.Module, x: torch.Tensor) -> float:
    ours, wanted = (one(x).detach().double().log_softmax(1) for one in (other, model))
    return float(kl_div(ours, wanted, reduction="batchmean", log_target=True))


def alone(kind: str, layers: tuple[str, ...], bits: int) -> mrecg.Recipe:
    rules = [{"layers": "*", "weight_bits": FLOAT_BITS, "activation_bits": FLOAT_BITS}]
    rules += [{"layers": name, f"{kind}_bits": bits} for name in layers]
    return RECIPE.override({"placement.overrides": rules})


@pytest.fixture(scope="module")
def residual() -> tuple[torch.nn.Module, torch.Tensor, Sensitivity]:
    torch.manual_seed(0)
    model, x = toys.Residual().eval(), toys.images(16)
    for parameter in model.parameters():
        parameter.data *= 3  # answers that differ
    found = mrecg.sensitivity(
        model, x, RECIPE, weight_bits=(2, 4), activation_bits=(2, 4), progress=False
    )
    return model, x, found


@pytest.mark.parametrize(
    ("kind", "name"), [("weight", "stage.two.a"), ("activation", "stage.two.project")]
)
def test_a_unit_alone_is_an_override_of_its_layers_alone(
    residual: tuple[torch.nn.Module, torch.Tensor, Sensitivity], kind: str, name: str
) -> None:
    """The projection and the first layer of its block read one tensor, which has one width."""
    model, x, found = residual
    unit = next(one for one in found.units if one.kind == kind and one.name == name)
    assert set(unit.layers) == ({name} if kind == "weight" else {name, "stage.two.a"})
    quantized = mrecg.quantize(model, x, recipe=alone(kind, unit.layers, 2), progress=False)
    assert unit.harm_at(2) == pytest.approx(divergence(model, quantized.model, x), rel=1e-3)


def test_the_check_of_the_sum_is_the_harm_of_all_units_at_once(
    residual: tuple[torch.nn.Module, torch.Tensor, Sensitivity],
) -> None:
    model, x, found = residual
    units = found.of_kind("weight")
    layers = tuple(layer for unit in units for layer in unit.layers)
    whole = next(one for one in found.wholes if (one.kind, one.bits) == ("weight", 2))
    quantized = mrecg.quantize(model, x, recipe=alone("weight", layers, 2), progress=False)
    assert whole.measured == pytest.approx(divergence(model, quantized.model, x), rel=1e-3)
    assert whole.added == pytest.approx(sum(unit.harm_at(2) for unit in units))


def test_layers_whose_width_is_prescribed_have_no_choice(
    residual: tuple[torch.nn.Module, torch.Tensor, Sensitivity],
) -> None:
    """First and last layer have 8 bits by the recipe's convention."""
    *_, found = residual
    costs = {layer.name: layer for layer in found.layers}
    assert [costs[name].weight_unit for name in ("stem", "fc")] == [None, None]
    assert costs["stem"].weight_bits == costs["fc"].weight_bits == 8
    assert all(costs[name].weight_unit for name in costs.keys() - {"stem", "fc"})


def test_a_sensitivity_is_read_back_as_it_was_written(
    residual: tuple[torch.nn.Module, torch.Tensor, Sensitivity], tmp_path: object
) -> None:
    *_, found = residual
    assert Sensitivity.parse(found.to_json().encode(), "x.json") == found


def test_reconstruction_never_makes_a_unit_worse_and_labels_give_a_score() -> None:
    torch.manual_seed(1)
    model, x = toys.Chain().eval(), toys.images(16)
    recipe = mrecg.preset("w4a4-qdrop", {"reconstruct.batch_size": 8})
    labels = model(x).argmax(1)
    common = {"weight_bits": (2,), "granularity": "block", "progress": False}
    nearest = mrecg.sensitivity(model, x, recipe, labels=labels, **common)
    learned = mrecg.sensitivity(model, x, recipe, after=20, **common)
    pairs = zip(nearest.units, learned.units, strict=True)
    differences = [before.harm_at(2) - after.harm_at(2) for before, after in pairs]
    assert min(differences) >= 0
    assert max(differences) > 0
    assert (nearest.metric, nearest.float_score) == ("top-1", 100.0)
    scores = [harm.score for unit in nearest.units for harm in unit.harms]
    assert all(score is not None and 0 <= score <= 100 for score in scores)


@pytest.mark.parametrize("model", [toys.Dense, toys.VisionTransformer, toys.Inception])
def test_networks_of_any_shape_have_a_sensitivity(model: type[torch.nn.Module]) -> None:
    found = mrecg.sensitivity(
        model().eval(), toys.images(4), RECIPE, weight_bits=(3,), progress=False
    )
    assert {unit.name for unit in found.units}
    assert all(0 <= unit.harm_at(3) < 1 for unit in found.units)


@pytest.mark.parametrize(
    ("recipe", "arguments", "said"),
    [
        (RECIPE, {"weight_bits": (16,)}, "do not fit the recipe, expected some of 2 to 8 bits"),
        (RECIPE, {"weight_bits": ()}, "No width is to be measured"),
        (RECIPE, {"labels": torch.zeros(3)}, "3 labels for 4 images"),
        (RECIPE.override({"weight.bits": 32}), {}, "leaves it in float"),
        (
            mrecg.preset("w8a8-rtn").for_backend("nnie"),
            {"weight_bits": (8,)},
            "no width to choose",
        ),
        (RECIPE.for_backend("tensorrt"), {"activation_bits": (8,)}, "leave activation_bits out"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_sentence(
    recipe: mrecg.Recipe, arguments: dict[str, object], said: str
) -> None:
    with pytest.raises(MrecgError, match=said):
        mrecg.sensitivity(toys.Chain().eval(), toys.images(4), recipe, progress=False, **arguments)
