"""Accuracy as counts."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrecg import distributed
from mrecg.calibration import check_images
from mrecg.errors import DataError

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """How many images were classified, and how many of them correctly.

    Attributes:
        count: images.
        correct1: the label is the largest logit.
        correct5: the label is among the five largest.
    """

    count: int
    correct1: int
    correct5: int

    @property
    def top1(self) -> float:
        """Accuracy in percent."""
        return 100 * self.correct1 / self.count

    @property
    def top5(self) -> float:
        """Accuracy in percent when five guesses are allowed."""
        return 100 * self.correct5 / self.count


@torch.inference_mode()
def evaluate(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Count the images that `model` classifies correctly.

    Args:
        model: images to logits; a tuple of outputs counts by its first. Put it in evaluation mode before.
        loader: batches of images and labels, such as a DataLoader; processes that share a run bring equal ones, and
            each counts its part.

    Raises:
        DataError: no images, images that the model cannot take, or labels that the model has no logit for.
    """
    parameter = next(iter([*model.parameters(), *model.buffers()]), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    count = correct1 = correct5 = 0
    for index, (images, labels) in distributed.share_of_items(enumerate(loader)):
        check_images(images, f"batch {index}")
        logits = _logits(model, images.to(device), index)
        _check_labels(labels, len(images), logits.shape[1], index)
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = best == labels.to(device)[:, None]
        count += len(images)
        correct1 += int(hits[:, 0].sum())
        correct5 += int(hits.sum())
    count, correct1, correct5 = map(int, distributed.total([count, correct1, correct5]))
    if count == 0:
        raise DataError("There are no images to evaluate on.")
    return Evaluation(count, correct1, correct5)


def _logits(model: nn.Module, images: Tensor, index: int) -> Tensor:
    try:
        result = model(images)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"The model cannot take the images of batch {index}, of shape {tuple(images.shape)}: {reason}"
        ) from error
    logits = result[0] if isinstance(result, tuple | list) else result
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise DataError(
            "The model's output is no table of logits (images × classes), so nothing can be counted."
        )
    return logits


def _check_labels(labels: Tensor, images: int, classes: int, index: int) -> None:
    if labels.shape != (images,):
        raise DataError(
            f"Batch {index} has {images} images but labels of shape {tuple(labels.shape)}."
        )
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise DataError(
            f"Batch {index} has the label {int(wrong[0])}, expected 0 to {classes - 1}: "
            f"the model has {classes} classes."
        )
