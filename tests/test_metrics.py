"""Metrics of any task, and closeness to the float network without labels."""

from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mrecg
import toys
from mrecg.errors import DataError
from mrecg.metrics import metric_name

IMAGES = toys.images(40)
LABELS = torch.arange(40) % 5


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(IMAGES.split(sizes), LABELS.split(sizes), strict=True))


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.argmax(1) == targets).float().mean())


class Mean:
    """A metric as torchmetrics writes them: a state, `update`, `compute`, `reset`, and a call for one batch."""

    def __init__(self) -> None:
        self.hits, self.count = torch.zeros(5), torch.tensor(7)  # of an earlier use

    def reset(self) -> None:
        self.hits, self.count = torch.zeros(5), torch.tensor(0)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        hits = outputs.argmax(1) == targets
        self.hits += torch.stack([hits[targets == label].sum() for label in range(5)])
        self.count += len(targets)

    def compute(self) -> dict[str, Tensor]:
        return {"accuracy": self.hits.sum() / self.count, "hits": self.hits}

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise AssertionError("a metric with a state is not a function")


def test_a_function_is_averaged_over_images() -> None:
    model = toys.make("chain")
    counted = mrecg.evaluate(model, batches(40))
    for sizes in ((40,), (32, 8), (7, 32, 1)):
        assert mrecg.evaluate(model, batches(*sizes), accuracy) == pytest.approx(counted.top1 / 100)
    both = mrecg.evaluate(
        model, batches(32, 8), lambda outputs, targets: {"a": accuracy(outputs, targets), "one": 1}
    )
    assert both == pytest.approx({"a": counted.top1 / 100, "one": 1.0})


def test_an_object_is_used_as_it_is() -> None:
    model = toys.make("chain").train()
    metric = Mean()
    found: Any = mrecg.evaluate(model, batches(32, 8), metric)
    assert model.training
    assert found["accuracy"] == pytest.approx(mrecg.evaluate(model, batches(40)).top1 / 100)
    assert sum(found["hits"]) == pytest.approx(40 * found["accuracy"])
    metric.hits += 1  # its state is an ordinary tensor afterwards


def test_a_metric_that_cannot_start_is_refused() -> None:
    class Counter:
        def reset(self) -> None:
            raise RuntimeError("no memory")

        def update(self, outputs: Any, targets: Any) -> None: ...

        def compute(self) -> float:
            return 1.0

    model = toys.make("chain")
    with pytest.raises(DataError, match=r"is the class Counter, expected an object; give Counter"):
        mrecg.evaluate(model, batches(40), Counter)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="The metric fails for its reset: RuntimeError: no memory"):
        mrecg.evaluate(model, batches(40), Counter())


def test_a_quantized_model_is_evaluated_as_it_is() -> None:
    quantized = mrecg.quantize(toys.make("chain"), IMAGES, recipe=mrecg.preset("w4a4-rtn"))
    assert mrecg.evaluate(quantized, batches(40)) == mrecg.evaluate(quantized.model, batches(40))
    assert mrecg.evaluate(quantized, batches(40), accuracy) == mrecg.evaluate(
        quantized.model, batches(40), accuracy
    )


class Dense(nn.Module):
    """A detector's outputs: classes of a map, depth, boxes, the best class."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        made = self.head(self.stem(x).relu())
        return {
            "classes": made,
            "depth": made[:, :1],
            "boxes": [made[:, :4].flatten(2).transpose(1, 2)],
            "best": made.argmax(1),
            "names": None,
            "table": made.mean((2, 3)),
        }


def test_metrics_see_what_the_model_returns_and_any_targets() -> None:
    targets = [{"boxes": torch.zeros(3, 4)} for _ in range(40)]
    seen = []

    def metric(outputs: dict[str, Any], wanted: list[dict[str, Tensor]]) -> int:
        seen.append((outputs["boxes"][0].shape, outputs["names"], len(wanted)))
        return 1

    assert mrecg.evaluate(Dense(), [(IMAGES, targets)], metric) == 1
    assert seen == [((40, 36, 4), None, 40)]


def test_fidelity_is_per_output() -> None:
    torch.manual_seed(0)
    model = Dense().train()
    quantized = mrecg.quantize(model, IMAGES, recipe=mrecg.preset("w4a4-rtn"))
    found = mrecg.fidelity(model, quantized, IMAGES)
    assert model.training
    assert list(found) == ["classes", "depth", "boxes_0", "best", "table"]
    with torch.no_grad():
        wanted, got = (one(IMAGES) for one in (model.eval(), quantized.model))
    error = (wanted["depth"] - got["depth"]).norm() / wanted["depth"].norm()
    assert found["depth"].relative_error == pytest.approx(float(error), rel=1e-4)
    assert found["depth"].snr == pytest.approx(float(-20 * error.log10()), rel=1e-3)
    same = (wanted["best"] == got["best"]).float().mean()
    for name in ("classes", "best"):
        assert found[name].agreement == pytest.approx(100 * float(same), abs=1e-3)
    assert (
        found["depth"].agreement is found["boxes_0"].agreement is None
    )  # of numbers that are no classes
    assert found["best"].snr is found["best"].relative_error is None
    table = (wanted["table"].argmax(1) == got["table"].argmax(1)).float().mean()
    assert found["table"].agreement == pytest.approx(100 * float(table), abs=1e-3)


class InPlace(nn.Module):
    """Normalizes its input in place, keeps a grid from its first call, and reads a number off a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Conv2d(2, 4, 3), nn.Linear(4, 5)
        self.register_buffer("size", torch.tensor(1))
        self.grid: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        x /= 0.25
        if self.grid is None:
            self.grid = torch.linspace(0, 1, 6)
        y = (self.body(x) * self.grid).relu()
        return self.head(nn.functional.adaptive_avg_pool2d(y, int(self.size)).flatten(1))


def test_what_a_forward_does_to_its_input_and_keeps_harms_nobody() -> None:
    model, images = InPlace().eval(), IMAGES.clone()
    labels = torch.zeros(len(images), dtype=torch.long)
    prepared = mrecg.prepare(model, images, recipe="w8a8-rtn")
    assert torch.equal(images, IMAGES)
    assert isinstance(prepared.images, Tensor)
    assert torch.equal(prepared.images, IMAGES)
    quantized = prepared.quantize()
    for _ in range(2):
        first = mrecg.evaluate(model, [(images, labels)])
        assert mrecg.evaluate(model, [(images, labels)], lambda y, _: len(y)) > 0
        error = mrecg.fidelity(model, quantized, images)["output"].relative_error
        assert error is not None
        assert error < 0.05
        assert mrecg.evaluate(model, [(images, labels)]) == first
        assert torch.equal(images, IMAGES)
    model(images.clone()).sum().backward()  # the grid is an ordinary tensor


@dataclass(frozen=True)
class Answer:
    logits: Tensor
    name: str = "x"


class Named(UserDict[str, Tensor]):
    """A mapping that torch's pytree does not know."""


@pytest.mark.parametrize(
    "wrap", [Answer, lambda logits: Named(logits=logits), lambda logits: [Answer(logits)]]
)
def test_float_models_return_what_quantized_ones_do(wrap: Callable[[Tensor], Any]) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = toys.make("chain")

        def forward(self, x: Tensor) -> Any:
            return wrap(self.inner(x))

    model = Wrapped().eval()
    quantized = mrecg.quantize(model, IMAGES, recipe="w8a8-rtn")
    assert mrecg.evaluate(model, batches(40)) == mrecg.evaluate(model.inner, batches(40))
    assert mrecg.evaluate(quantized, batches(40)).count == 40
    (found,) = mrecg.fidelity(model, quantized, IMAGES).values()
    assert found.relative_error is not None
    assert found.relative_error < 0.1
    seen: list[Any] = []
    mrecg.evaluate(model, batches(40), lambda outputs, _: seen.append(outputs) or 1.0)
    assert type(seen[0]) is type(wrap(torch.zeros(1)))


@pytest.mark.parametrize("value", [[0.1, None], [[1.0], [1.0, 2.0]], np.array(["a"])])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match=r"The metric gives .*, expected numbers"):
        mrecg.evaluate(toys.make("chain"), batches(40), lambda outputs, targets: value)


def test_a_network_is_faithful_to_itself() -> None:
    settings = {"placement.first_last_bits": 32}
    model = toys.make("chain")
    same = mrecg.quantize(model, IMAGES, recipe=mrecg.preset("w32a32-rtn", settings))
    (found,) = mrecg.fidelity(model, same, IMAGES).values()
    assert found.agreement == 100
    assert found.snr is not None
    assert found.snr > 100


def test_a_metric_has_the_name_of_its_function_or_class() -> None:
    class MeanError:
        pass

    assert [metric_name(one) for one in (None, torch.dist, MeanError())] == [
        "top-1",
        "dist",
        "MeanError",
    ]
