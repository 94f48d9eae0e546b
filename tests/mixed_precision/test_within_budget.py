"""What a budget chooses among is found out, and what it cannot have is refused, before anything is measured."""

from typing import Any

import pytest
import torch

import mrecg
import toys
from mrecg.errors import RecipeError
from mrecg.mixed_precision import within_budget
from mrecg.mixed_precision.within_budget import choose_within, open_widths, widths_within

RECIPE = mrecg.preset("w4a4-rtn", {"reconstruct.answer": "logits", "placement.first_last": "same"})


def test_bit_operations_are_saved_in_weights_and_in_what_layers_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model, x = toys.Chain().eval(), toys.images(8)
    quiet: Any = {"after": None, "progress": lambda event: None, "memory": None}
    found, choice = choose_within(model, x, RECIPE, "0.15MBOPs", **quiet)
    assert found.widths("weight") == found.widths("activation") == (2, 3, 4, 8)
    assert choice.cost.bops <= 0.15e6
    read = {one.layers[0]: one.bits for one in choice.widths if one.kind == "activation"}
    assert len(read) == 4
    assert min(read.values()) < RECIPE.activation.bits
    rules = [one.model_dump() for one in choice.overrides()]
    mixed = RECIPE.override({"placement.overrides": rules})
    placed = mrecg.prepare(model, x, recipe=mixed).graph.placed
    made = {one.readers[0]: one.request.bits for one in placed if not one.is_weight}
    assert read.items() <= made.items()

    monkeypatch.setattr(within_budget, "sensitivity", None)  # is not reached
    for budget in ("300B", "1kBOPs"):
        with pytest.raises(RecipeError, match="cannot be kept: with the smallest") as early:
            choose_within(model, x, RECIPE, budget, **quiet)
        with pytest.raises(RecipeError) as late:
            mrecg.choose_bits(found, budget)
        assert str(early.value) == str(late.value)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"placement.tensors": "all"}, "weight"),
        ({"activation.bits": 32}, "weight"),
        ({"weight.bits": 32}, "activation"),
    ],
)
def test_a_budget_of_bit_operations_chooses_what_the_recipe_leaves_open(
    settings: dict[str, Any], kind: str
) -> None:
    recipe = RECIPE.override(settings)
    found = widths_within(toys.Chain().eval(), toys.images(2), recipe, "1GBOPs")
    assert found == {kind: (2, 3, 4, 8)}


def test_a_budget_of_size_has_no_width_of_activations_to_choose() -> None:
    recipe = RECIPE.override({"weight.bits": 32})
    with pytest.raises(RecipeError, match="The budget 4bits has no weight width to choose"):
        widths_within(toys.Chain().eval(), toys.images(2), recipe, "4bits")


def test_nothing_narrower_than_the_least_width_is_open() -> None:
    least: Any = {"weight": 9, "activation": 5}
    found = open_widths(toys.Chain().eval(), toys.images(2), RECIPE, least)
    assert found == {"activation": (5, 6, 7, 8)}
