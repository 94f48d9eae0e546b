"""Measure accuracy, as counts of images."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from torch import Tensor, nn

from mrecg import distributed
from mrecg.errors import DataError, ModelError, RunError, expect
from mrecg.freed_memory import freed_memory_kept
from mrecg.graph.inputs import ModelInputs, NamedInputs, as_inputs
from mrecg.graph.outputs import named_tensors, plain_outputs
from mrecg.metrics import Metric, Score, answer, measure
from mrecg.preparation.calibration import check_images
from mrecg.records.evaluation import Evaluation, pack_hits
from mrecg.records.record import Record
from mrecg.runs.checkpoints import hash_of_images
from mrecg.runs.folder import QuantizedModel, environment
from mrecg.torch_state import device_of

__all__ = [
    "Evaluation",
    "Repetition",
    "below_published",
    "evaluate",
    "recorded_accuracy",
    "repeat",
    "with_accuracy",
]

_TOLERANCE = 0.5
"""Points of top-1 that a float network may be below its published figure: another resizing already costs some tenths."""

REPEATED_WITHIN = 0.1
"""Points of top-1 and top-5 that may differ on another machine: other kernels round other last bits."""


@dataclass(frozen=True)
class Repetition:
    """A second evaluation of a run, against the first.

    Attributes:
        recorded, measured: the first and the second.
        differences: what of the environment is not as it was; nothing on the same machine, where counts must be equal.
        version: of mrecg, where it is not as it was.
        same_images: whether the images that calibrated have the recorded hash; `None` where they were not compared.
    """

    recorded: Evaluation
    measured: Evaluation
    differences: tuple[str, ...]
    version: str = ""
    same_images: bool | None = None

    @property
    def allowed(self) -> int:
        """Return how many right answers more or less there may be: none on the same machine, else 0.1 % of the images, at least one."""
        if not self.differences:
            return 0
        return max(1, math.floor(self.recorded.count * REPEATED_WITHIN / 100))

    @property
    def holds(self) -> bool:
        """Return whether the record is confirmed; another library may decode other pixels, so then images may differ."""
        if self.same_images is False and not self.differences:
            return False
        before, after = self.recorded, self.measured
        return before.count == after.count and all(
            abs(one) <= self.allowed
            for one in (after.correct1 - before.correct1, after.correct5 - before.correct5)
        )


def repeat(
    quantized: QuantizedModel,
    loader: Iterable[tuple[Tensor, Tensor]],
    calibration: Tensor | None = None,
) -> Repetition:
    """Evaluate a saved run again and compare with its record.

    Args:
        quantized: the run, on the device to evaluate on.
        loader: the images of the record, as for `evaluate`.
        calibration: the images that calibrated, read again; their hash is compared where the record holds one.

    Raises:
        RunError: the record holds no accuracy.
        DataError: as for `evaluate`.
    """
    recorded = recorded_accuracy(quantized.record)
    model = quantized.model
    now, before = environment(device_of(model)), quantized.record.environment
    # Kernels are loaded where something learns; nothing is learned here.
    changed = {
        name: f"{name} {before.get(name, 'unknown')}, now {value}"
        for name, value in now.items()
        if name != "kernels" and before.get(name) != value
    }
    version = changed.pop("mrecg", "")
    known = quantized.record.inputs.get("images")
    same = None
    if calibration is not None and known is not None:
        same = hash_of_images(calibration) == known
    return Repetition(recorded, evaluate(model, loader), tuple(changed.values()), version, same)


def recorded_accuracy(record: Record) -> Evaluation:
    """Return the accuracy of the quantized network that a record holds.

    Raises:
        RunError: it holds none.
    """
    if "quantized" not in record.accuracy:
        raise RunError(
            "The run's record holds no accuracy to compare with; measure it with mrecg evaluate."
        )
    return record.accuracy["quantized"]


@overload
def evaluate(
    model: nn.Module | QuantizedModel, loader: Iterable[tuple[Tensor, Tensor]]
) -> Evaluation: ...


@overload
def evaluate(
    model: nn.Module | QuantizedModel, loader: Iterable[tuple[Tensor, Any]], metric: Metric
) -> Score: ...


def evaluate(
    model: nn.Module | QuantizedModel,
    loader: Iterable[tuple[Tensor, Any]],
    metric: Metric | None = None,
) -> Evaluation | Score:
    """Count the images that `model` classifies correctly, by its best and its five best logits, or measure another metric.

    Args:
        model: maps images `(n, …)` to logits `(n, classes)`; of several outputs the first such table counts. Run in evaluation mode and
            restored.
        loader: batches of images and labels, such as a DataLoader; next to a metric, of images and its targets. Images of a
            network with several inputs are dictionaries by name. Processes that share a run bring the same batches; each evaluates its share.
        metric: `metric(outputs, targets)` gives a number, or numbers by name, for a batch, of which the mean over images is
            returned. What is no such mean, such as mIoU or mAP, comes from an object with `update(outputs, targets)` and
            `compute()`: one of torchmetrics is used as it is. Outputs are what the model returns, on the CPU.

    Returns:
        The counts, or what the metric gives: a number or a dictionary of numbers.

    Raises:
        DataError: no images, images that the model cannot take, labels that the model has no logit for, or a metric that
            fails or gives no number.
        ModelError: `model` is neither a module nor a quantized model.
    """
    advice = "give the network, or what mrecg.quantize returned"
    expect(model, (nn.Module, QuantizedModel), "The model", advice, ModelError)
    expect(loader, Iterable, "The evaluation set", "give batches of images and labels", DataError)
    network = model.model if isinstance(model, QuantizedModel) else model
    if metric is not None:
        return measure(network, loader, metric)
    return _count_correct(network, loader)


@torch.no_grad()
@freed_memory_kept()
def _count_correct(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    device = device_of(model)
    count = correct1 = correct5 = 0
    first_hits: list[bool] = []
    for index, batch in distributed.share_of_items(enumerate(loader)):
        images, labels = _images_and_labels(batch, index)
        logits = _logits(model, images, index)
        _check_labels(labels, len(images), logits.shape[1], index)
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = best == labels.to(device)[:, None]
        count += len(images)
        correct1 += int(hits[:, 0].sum())
        correct5 += int(hits.sum())
        first_hits += hits[:, 0].tolist()
    count, correct1, correct5 = map(int, distributed.total([count, correct1, correct5]))
    if count == 0:
        raise DataError("There are no images to evaluate on.")
    # Of several processes each knows its share of the answers only.
    packed = pack_hits(first_hits) if len(first_hits) == count else ""
    return Evaluation(count, correct1, correct5, packed)


def with_accuracy(
    quantized: QuantizedModel,
    before: Evaluation,
    after: Evaluation,
    skipped: tuple[str, ...] = (),
) -> QuantizedModel:
    """Return the quantized model with its accuracy, and that of the float network, in its record.

    Args:
        quantized: is returned with more in its record.
        before, after: accuracy of the float network and of the quantized one, on the same images.
        skipped: images that were left out in both, because they could not be read; added to those in the record.
    """
    both = {"float": before, "quantized": after}
    return quantized.with_found(
        accuracy={kind: replace(one, skipped=len(skipped)) for kind, one in both.items()},
        skipped_images=tuple(dict.fromkeys(quantized.record.skipped_images + skipped)),
    )


def below_published(measured: Evaluation, published: float | None) -> str | None:
    """Return a warning if a float network's top-1 is more than 0.5 points below its published one, else `None`.

    The cause is mostly preprocessing or weights other than those it was trained with; the result looks like bad quantization.

    Args:
        measured: accuracy of the float network.
        published: its published top-1 in percent, if known.
    """
    if published is None or measured.top1 >= published - _TOLERANCE:
        return None
    return (
        f"The float network's top-1 of {measured.top1:.2f} % on {measured.count} images is "
        f"{published - measured.top1:.2f} points below the published {published:.2f} %; check the weights, "
        "the size and normalization of the images, and the order of the classes."
    )


def _images_and_labels(batch: object, index: int) -> tuple[ModelInputs, Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DataError(
            f"Batch {index} is a {type(batch).__name__}, expected a pair of images and labels."
        )
    images, labels = as_inputs(batch[0], f"batch {index}"), batch[1]
    advice = "convert it with torch.from_numpy, say"
    expect(images, (Tensor, NamedInputs), f"The image part of batch {index}", advice, DataError)
    check_images(images, f"batch {index}")
    expect(
        labels,
        Tensor,
        f"The label part of batch {index}",
        "give a tensor of class numbers",
        DataError,
    )
    return images, labels


def _logits(model: nn.Module, images: ModelInputs, index: int) -> Tensor:
    result = answer(model, images, f"batch {index}")
    tables = (one for one in named_tensors(plain_outputs(result)).values() if one.ndim == 2)
    logits = next(filter(Tensor.is_floating_point, tables), None)
    if logits is None:
        raise DataError(
            "The model's output is not a table of logits (images × classes), so accuracy cannot be measured; give a metric, "
            "or quantize with --evaluation-images 0."
        )
    if not bool(torch.isfinite(logits).all()):
        wrong = int((~torch.isfinite(logits).all(1)).nonzero()[0])
        raise DataError(
            f"The model's logits of image {wrong} in batch {index} are NaN or infinite; check its weights."
        )
    return logits


def _check_labels(labels: Tensor, images: int, classes: int, index: int) -> None:
    if labels.shape != (images,):
        raise DataError(
            f"Batch {index} has {images} images but labels of shape {tuple(labels.shape)}."
        )
    if labels.is_floating_point():
        raise DataError(f"Batch {index} has labels of {labels.dtype}, expected class numbers.")
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise DataError(
            f"Batch {index} has the label {int(wrong[0])}, expected 0 to {classes - 1}: "
            f"the model has {classes} classes."
        )
