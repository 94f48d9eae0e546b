"""Targets of accuracy: recipes are tried in the order of cost, and the record tells every try."""

import pytest
import torch

import mrecg
import toys
from mrecg.errors import MrecgError
from mrecg.records.record import Record

RECIPE = mrecg.preset(
    "w2a2-qdrop",
    {"reconstruct.steps": 20, "reconstruct.batch_size": 8, "network.steps": 0},
)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    made = toys.Chain().eval()
    for parameter in made.parameters():
        parameter.data *= 3
    return made


def test_rounding_to_nearest_is_enough_where_it_is(model: torch.nn.Module) -> None:
    x = toys.images(16)
    labels = model(x).argmax(1)
    found = mrecg.quantize_to(
        model, x, max_drop=100, validation=[(x, labels)], recipe=RECIPE, progress=False
    )
    target = found.record.target
    assert target is not None
    assert (target.metric, target.float_score) == ("top-1", 100)
    assert [one.steps for one in target.attempts] == [0]
    assert target.is_held
    assert "learning buys nothing" in target.verdict
    assert found.recipe.reconstruct.steps == 0


def test_tries_cost_more_and_more_until_one_holds(model: torch.nn.Module) -> None:
    """Without labels; nothing is tried behind the first that holds a limit."""
    x = toys.images(32)
    all_tries = mrecg.quantize_to(model, x, max_drop=0, recipe=RECIPE, progress=False).record
    assert all_tries.target is not None
    attempts = all_tries.target.attempts
    assert not all_tries.target.is_held
    assert f"None of {len(attempts)} tries holds" in all_tries.target.verdict
    assert [one.steps for one in attempts] == [0, 2, *[20] * (len(attempts) - 2)]
    sizes = [one.bytes for one in attempts]
    assert sizes == sorted(sizes)
    assert attempts[-1].left_in_float >= attempts[-2].left_in_float > 0
    kept = all_tries.target.kept
    assert attempts[kept].drop == min(one.drop for one in attempts)
    assert all_tries.size is not None
    assert all_tries.size.quantized_bytes == attempts[kept].bytes
    assert Record.parse(all_tries.to_json().encode(), "r") == all_tries

    limit = 0.99 * attempts[0].drop
    first = next(index for index, one in enumerate(attempts) if one.drop <= limit)
    held = mrecg.quantize_to(model, x, max_drop=limit, recipe=RECIPE, progress=False).record.target
    assert held is not None
    assert held.is_held
    assert [one.name for one in held.attempts] == [one.name for one in attempts[: first + 1]]
    assert f"The cheapest recipe that holds the target is {attempts[first].name}" in held.verdict


def test_no_try_takes_more_than_the_budget(model: torch.nn.Module) -> None:
    found = mrecg.quantize_to(
        model, toys.images(32), max_drop=0, recipe=RECIPE, budget="3bits", progress=False
    ).record
    assert found.target is not None
    assert found.bits is not None
    assert found.bits.cost.bits <= 3
    assert {one.bytes for one in found.target.attempts} == {found.bits.cost.bytes}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"max_drop": -1}, "expected a number of 0 or more"),
        ({"max_drop": float("nan")}, "expected a number of 0 or more"),
        ({"max_drop": "much"}, "The largest drop is a str"),
        ({"max_drop": 1, "metric": len}, "A metric needs labels"),
        ({"max_drop": 1, "budget": "1bits"}, "cannot be kept"),
    ],
)
def test_mistakes_are_said_in_a_sentence(
    model: torch.nn.Module, arguments: dict[str, object], said: str
) -> None:
    with pytest.raises(MrecgError, match=said):
        mrecg.quantize_to(model, toys.images(16), recipe=RECIPE, progress=False, **arguments)


def test_nothing_wider_is_tried_where_every_width_is_prescribed(model: torch.nn.Module) -> None:
    """8 bits are the widest, so only layers in float are left; and where rules name every layer, not even these."""
    recipe = mrecg.preset("w8a8-rtn")
    found = mrecg.quantize_to(model, toys.images(8), max_drop=0, recipe=recipe, progress=False)
    assert found.record.target is not None
    first, *others = found.record.target.attempts
    assert first.name == "rounding to nearest"
    assert others
    assert all("layers in float" in one.name for one in others)
    rules = [{"layers": "*", "weight_bits": 4, "activation_bits": 8}]
    recipe = recipe.override({"placement.overrides": rules})
    found = mrecg.quantize_to(model, toys.images(8), max_drop=0, recipe=recipe, progress=False)
    assert found.record.target is not None
    assert len(found.record.target.attempts) == 1
