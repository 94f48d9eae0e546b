"""Targets of accuracy: recipes are tried in the order of cost, and the record tells every try."""

import math
from collections.abc import Iterator

import pytest
import torch

import mrecg
import toys
from mrecg.errors import MrecgError
from mrecg.mixed_precision import ladder
from mrecg.mixed_precision.divergence import FloatAnswers, returned_floats
from mrecg.mixed_precision.ladder import Ladder
from mrecg.records.evaluation import Evaluation
from mrecg.records.record import Record

RECIPE = mrecg.preset(
    "w2a2-qdrop",
    {"reconstruct.steps": 20, "reconstruct.batch_size": 4, "network.steps": 0},
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


def test_tries_cost_more_and_more(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without labels; one try with more bits, and one with layers in float."""
    monkeypatch.setattr(ladder, "MORE", (1.5,))
    monkeypatch.setattr(ladder, "IN_FLOAT", (0.9,))
    x = toys.images(16)
    all_tries = mrecg.quantize_to(model, x, max_drop=0, recipe=RECIPE, progress=False).record
    assert all_tries.target is not None
    attempts = all_tries.target.attempts
    assert not all_tries.target.is_held
    assert f"None of {len(attempts)} tries holds" in all_tries.target.verdict
    assert [one.steps for one in attempts] == [0, 0, 2, 20, 20, 20]
    sizes = [one.bytes for one in attempts]
    assert sizes == sorted(sizes)
    assert [one.left_in_float > 0 for one in attempts] == [False] * 5 + [True]
    kept = all_tries.target.kept
    assert attempts[kept].drop == min(one.drop for one in attempts)
    assert all_tries.size is not None
    assert all_tries.size.quantized_bytes == attempts[kept].bytes
    assert Record.parse(all_tries.to_json().encode(), "r") == all_tries


def test_no_try_takes_more_than_the_budget_and_none_follows_the_first_that_holds(
    model: torch.nn.Module,
) -> None:
    def tries(max_drop: float) -> Record:
        return mrecg.quantize_to(
            model,
            toys.images(16),
            max_drop=max_drop,
            recipe=RECIPE,
            budget="3bits",
            progress=False,
        ).record

    found = tries(max_drop=0)
    assert found.target is not None
    assert found.bits is not None
    attempts = found.target.attempts
    assert found.bits.cost.bits <= 3
    assert {one.bytes for one in attempts} == {found.bits.cost.bytes}
    assert len(attempts) == 4
    limit = min(one.drop for one in attempts[1:])
    first = next(index for index, one in enumerate(attempts) if one.drop <= limit)
    held = tries(max_drop=limit).target
    assert held is not None
    assert held.is_held
    assert [one.name for one in held.attempts] == [one.name for one in attempts[: first + 1]]


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


def labeled(model: torch.nn.Module, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    x = toys.images(count)
    return [(x, model(x).argmax(1))]


CLOSED_FORM = mrecg.preset(
    "w4a8-qronos",
    {"placement.overrides": [{"layers": "*", "weight_bits": 4, "activation_bits": 8}]},
)
"""Tried to nearest and in closed form, and nothing wider."""


def test_a_drop_that_is_no_number_is_infinite(model: torch.nn.Module) -> None:
    scores = iter([1.0, math.nan, 0.5])
    found = mrecg.quantize_to(
        model,
        toys.images(8),
        max_drop=0,
        validation=labeled(model, 8),
        metric=lambda outputs, targets: next(scores),
        recipe=CLOSED_FORM,
        progress=False,
    )
    target = found.record.target
    assert target is not None
    assert [one.drop for one in target.attempts] == [math.inf, 0.5]
    assert (target.kept, target.metric) == (1, "<lambda>")
    assert found.recipe.reconstruct.rounding == "qronos"
    assert Record.parse(found.record.to_json().encode(), "r") == found.record


def test_a_divergence_that_is_no_number_is_infinite(model: torch.nn.Module) -> None:
    x = toys.images(8)
    wanted = FloatAnswers.returned_by(model, x, RECIPE)
    made = returned_floats(model, x)
    assert wanted.compare(made) == 0
    assert wanted.compare({name: one * math.nan for name, one in made.items()}) == math.inf


class _Batches(list[tuple[torch.Tensor, torch.Tensor]]):
    """Counts how often they are gone through."""

    rounds = 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.rounds += 1
        return super().__iter__()


def test_each_network_is_measured_once(model: torch.nn.Module) -> None:
    validation = _Batches(labeled(model, 8))
    before = mrecg.evaluate(model, validation)
    found = mrecg.quantize_to(
        model,
        toys.images(8),
        max_drop=100,
        validation=validation,
        recipe=CLOSED_FORM,
        float_accuracy=before,
        progress=False,
    )
    assert validation.rounds == 2
    after = mrecg.evaluate(found, validation)
    assert found.record.accuracy == {"float": before, "quantized": after}
    assert found.record.target is not None
    assert found.record.target.attempts[0].drop == before.top1 - after.top1


def test_sensitivity_is_measured_on_a_batch_at_least(model: torch.nn.Module) -> None:
    recipe = RECIPE.override(
        {"weight.bits": 8, "reconstruct.batch_size": 70, "reconstruct.steps": 1}
    )
    steps = Ladder(model, toys.images(72), recipe, None, 1, lambda event: None, None).steps()
    *_, last = steps
    assert last.sensitivity is not None
    assert (last.sensitivity.images, last.sensitivity.after) == (70, 1)


@pytest.mark.parametrize(
    ("batch", "arguments", "said"),
    [
        (16, {}, "The calibration set without the 4 images that are set aside.* has 12 images"),
        (17, {"validation": True}, "The calibration set has 16 images, expected at least 17"),
        (8, {"validation": True, "metric": lambda outputs, targets: math.nan}, "<lambda> is nan"),
        (8, {"validation": True, "float_accuracy": 90}, "The float network's accuracy is an? int"),
        (8, {"float_accuracy": Evaluation(8, 4, 8)}, "leave float_accuracy out"),
    ],
)
def test_what_no_try_could_use_is_refused_before_the_first(
    model: torch.nn.Module, batch: int, arguments: dict[str, object], said: str
) -> None:
    recipe = RECIPE.override({"reconstruct.batch_size": batch})
    if "validation" in arguments:
        arguments = arguments | {"validation": labeled(model, 8)}
    with pytest.raises(MrecgError, match=said):
        mrecg.quantize_to(
            model, toys.images(16), max_drop=0, recipe=recipe, attempt=None, **arguments
        )


def test_a_network_that_returns_classes_has_no_divergence() -> None:
    class Classes(toys.Chain):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input).argmax(1)

    with pytest.raises(MrecgError, match="returns no floats, so there is no divergence from it"):
        mrecg.quantize_to(Classes().eval(), toys.images(8), max_drop=0, recipe="w8a8-rtn")
