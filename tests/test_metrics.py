"""Metrics of any task, and closeness to the float network without labels."""

from typing import Any

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
