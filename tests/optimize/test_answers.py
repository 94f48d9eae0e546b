"""What the outputs are decides how they are compared: logits by what they predict, values by their error."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import mrecg
import toys
from mrecg.config.optimization import Answer
from mrecg.errors import RecipeError
from mrecg.optimize.answer_distance import AnswerDistance, AnswerKinds
from mrecg.optimize.tables import TableFigures
from quick import quick


class Regressor(nn.Module):
    """Coordinates in pixels of an image of 224, as a table or as a map of one pixel."""

    def __init__(self, axes: int = 2, outputs: int = 4, middle: float = 112) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(2, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Conv2d(8, outputs, 1)
        self.axes, self.middle = axes, middle

    def forward(self, x: Tensor) -> Tensor:
        y = self.middle + 150 * self.head(self.body(x)).mean((2, 3), keepdim=True)
        return y.flatten(1) if self.axes == 2 else y


def offset(model: nn.Module, **settings: object) -> float:
    """The mean error of quantized coordinates on other images."""
    recipe = quick("w2a4-qdrop", network__steps=60, network__feature_weight=0.0, **settings)
    quantized = mrecg.quantize(model.eval(), toys.images(64), recipe=recipe)
    x = toys.images(64, seed=1)
    return float((quantized.model(x) - model(x)).mean().detach().abs())


def test_coordinates_in_a_table_are_values() -> None:
    """As logits they might all be off by the same number: it changes no prediction."""
    table = offset(Regressor())
    assert table == pytest.approx(offset(Regressor(4)), rel=0.2, abs=0.1)
    assert table == offset(Regressor(), reconstruct__answer="values")
    assert table != offset(Regressor(), reconstruct__answer="logits")


@pytest.mark.parametrize("outputs", [2, 8])
def test_coordinates_around_zero_are_values(outputs: int) -> None:
    """Their signs say nothing: what counts is that the mean of a row varies. The record says what they were taken for."""
    model = Regressor(outputs=outputs, middle=0).eval()
    record = mrecg.quantize(model, toys.images(16), recipe=quick(network__steps=1)).record
    assert record.network is not None
    assert list(record.network.taken_for.values()) == ["values"]


Loss = Callable[[Tensor, Tensor], Tensor]
TRAINED: dict[str, tuple[Loss, str]] = {
    "classes": (lambda y, t: functional.cross_entropy(y, t.argmax(1)), "logits"),
    "coordinates": (lambda y, t: functional.mse_loss(y, 112 * t), "values"),
    "labels": (
        lambda y, t: functional.binary_cross_entropy_with_logits(y, t.sign() / 2 + 0.5),
        "values",
    ),
}


@pytest.mark.parametrize("columns", [2, 10])
@pytest.mark.parametrize("task", TRAINED)
def test_training_decides_what_a_table_is_taken_for(task: str, columns: int) -> None:
    torch.manual_seed(columns)
    x = torch.randn(400, 20)
    wanted, layer = x @ torch.randn(20, columns) / 4, nn.Linear(20, columns)
    loss, kind = TRAINED[task]
    for _ in range(200):
        layer.zero_grad()
        loss(layer(x), wanted).backward()
        with torch.no_grad():
            for one in layer.parameters():
                assert one.grad is not None
                one -= (0.5 if kind == "values" and task != "labels" else 2.0) * one.grad
    table = TableFigures(columns)
    for part in layer(x).split(64):
        table.add(part)
    assert table.kind == kind


def distance(answer: object, name: str = "two-outputs") -> float:
    recipe = quick("w2a4-qdrop", reconstruct__answer=answer)
    found = mrecg.quantize(toys.make(name), toys.images(32), recipe=recipe).record.network
    assert found is not None
    return found.divergence_before


def test_each_output_has_a_kind_and_a_weight() -> None:
    both, neither = distance("logits"), distance([{"weight": 0.0}] * 2)
    first = distance([{"kind": "logits"}, {"weight": 0.0}])
    second = distance([{"weight": 0.0}, "logits"])
    assert neither == 0
    assert first + second == pytest.approx(both, rel=1e-5)
    assert distance([{"kind": "logits", "weight": 3.0}, {"weight": 0.0}]) == pytest.approx(
        3 * first, rel=1e-5
    )
    assert distance("values") != both
    assert distance("auto") == distance("values")  # no classes were learned yet


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (["logits", "values", "values"], "describes 3 outputs in reconstruct.answer, expected 2"),
        ("classes", "reconstruct.answer"),
        ([{"weight": -1}, "auto"], "reconstruct.answer"),
    ],
)
def test_a_wrong_answer_is_refused(answer: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        distance(answer)


def test_only_a_table_is_logits() -> None:
    recipe = quick("w4a4-qdrop", reconstruct__answer="logits")
    with pytest.raises(RecipeError, match=r"shape \[4, 1, 1\] for an image.*set values"):
        mrecg.prepare(Regressor(4).eval(), toys.images(16), recipe=recipe).check()


def test_only_tables_that_the_recipe_leaves_open_are_looked_at() -> None:
    """In batches as over all images, by the same figures for a run and for a sensitivity."""
    torch.manual_seed(0)
    rows = torch.randn(64, 5)
    made = {"classes": rows - rows.mean(1, keepdim=True), "boxes": rows, "map": rows[..., None]}
    made |= {"given": made["classes"], "other": made["classes"]}
    answers = dict.fromkeys(("classes", "boxes", "map"), Answer(kind="auto"))
    answers |= {"given": Answer(kind="logits"), "other": Answer(kind="values")}
    kinds = AnswerKinds(answers, {name: one.shape[1:] for name, one in made.items()})
    for first in range(0, 64, 16):
        kinds.add({name: one[first : first + 16] for name, one in made.items()})
    assert kinds.taken_for() == {"classes": "logits", "boxes": "values"}
    assert AnswerDistance(answers, kinds.taken_for(), {}, {}).logits == {"classes", "given"}
