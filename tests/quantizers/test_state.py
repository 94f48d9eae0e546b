"""A state is a value: it cannot be changed, and two of them make a third."""

from dataclasses import FrozenInstanceError

import pytest
import torch

from mrecg.quantizers.grid import Scaling
from mrecg.quantizers.state import QuantizerState
from mrecg.quantizers.weight import WeightState

ONE, TWO = (Scaling(torch.tensor(scale), torch.tensor(0.0)) for scale in (1.0, 2.0))
CODES = torch.zeros(2, 3)


def test_a_state_cannot_be_assigned_to() -> None:
    given = {"w": WeightState(CODES, ONE)}
    state = QuantizerState(given, {"a": ONE}, {"unit": 3})
    for mapping in (state.weights, state.activations, state.steps):
        with pytest.raises(TypeError, match="item assignment"):
            mapping["other"] = ONE  # type: ignore[index]
        with pytest.raises(TypeError, match="item deletion"):
            del mapping[next(iter(mapping))]  # type: ignore[attr-defined]
    with pytest.raises(FrozenInstanceError):
        state.weights = {}  # type: ignore[misc]
    with pytest.raises(AttributeError):
        state.weights["w"].codes = CODES  # type: ignore[misc]
    given.clear()  # the caller's own
    assert set(state.weights) == {"w"}


def test_of_two_states_the_second_wins() -> None:
    first = QuantizerState({"w": WeightState(CODES, ONE)}, {"a": ONE, "b": ONE}, {"unit": 1})
    second = QuantizerState({"v": WeightState(CODES, TWO)}, {"b": TWO}, {"unit": 2, "next": 1})
    both = first | second
    assert {name: one.scaling for name, one in both.weights.items()} == {"w": ONE, "v": TWO}
    assert both.activations == {"a": ONE, "b": TWO}
    assert both.steps == {"unit": 2, "next": 1}
    assert first.activations == {"a": ONE, "b": ONE}
    assert second.activations == {"b": TWO}
