"""Learning rates, the rounding penalty and batches along an optimization."""

import math
import random
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mrecg import distributed
from mrecg.config.optimization import Reconstruction
from mrecg.quantizers.adaround import Penalty, beta_at
from mrecg.quantizers.kernels import Slope

__all__ = [
    "REPORTS_PER_RUN",
    "GroupRates",
    "ScheduledValues",
    "cosine_decay",
    "derive_seed",
    "group_rates",
    "report_interval",
    "schedule_at",
    "shuffled_batches",
]

PAPER_ROUNDING_RATE = 1e-3
ROUNDING_REACH = 20.0
"""Rate × steps. Adam moves alpha by at most the rate per step, and it needs 2.4 from undecided to decided."""
LARGEST_ROUNDING_RATE = 5e-2
ACTIVATION_REACH = 0.5
"""Rate × steps: with the cosine decay, an activation scale can change by a quarter of itself."""
LARGEST_ACTIVATION_RATE = 5e-3
WEIGHT_SCALE_REACH = 4.5
"""Rate × steps of the weight scales, in code units."""
LARGEST_WEIGHT_SCALE_RATE = 3e-2
REPORTS_PER_RUN = 20
"""How often an optimization reports; a group then decides whether to stop early, too."""


class GroupRates(NamedTuple):
    """Adam's rates at the first step, for each kind of variable."""

    rounding: float
    activation_scale: float
    weight_scale: float


class ScheduledValues(NamedTuple):
    """The slope of the rounding penalty, if it acts, and the rate of each of Adam's groups at one step.

    Numbers, or tensors without axes.
    """

    slope: Slope | None
    rates: tuple[float | Tensor, ...]


def group_rates(settings: Reconstruction) -> GroupRates:
    """Return the rates of a group: those of the recipe, or, where they are `auto`, in inverse proportion to the steps."""
    steps = settings.step_count
    rounding = max(PAPER_ROUNDING_RATE, ROUNDING_REACH / steps)
    return GroupRates(
        _chosen(settings.rounding_rate, min(LARGEST_ROUNDING_RATE, rounding)),
        _chosen(settings.activation_rate, min(LARGEST_ACTIVATION_RATE, ACTIVATION_REACH / steps)),
        _chosen(
            settings.weight_scale_rate, min(LARGEST_WEIGHT_SCALE_RATE, WEIGHT_SCALE_REACH / steps)
        ),
    )


def _chosen(rate: float | Literal["auto"], automatic: float) -> float:
    return automatic if rate == "auto" else rate


def schedule_at(settings: Reconstruction, taken: int) -> ScheduledValues:
    """Return the penalty's slope and the rates of the step after `taken` others; the rates of scales decay by a cosine."""
    counted = taken + (settings.penalty_at == "end")
    beta = beta_at(counted / settings.step_count, settings.warm_up, settings.beta)
    slope = None
    if beta is not None and settings.penalty > 0:
        slope = Penalty(settings.penalty, beta).slope()
    rounding, *scales = group_rates(settings)
    decay = cosine_decay(taken / settings.step_count)
    return ScheduledValues(slope, (rounding, *(rate * decay for rate in scales)))


def cosine_decay(progress: float) -> float:
    """Return the fraction of a learning rate that is left after a fraction of the steps."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def report_interval(steps: int) -> int:
    """Return after how many steps an optimization reports."""
    return max(1, steps // REPORTS_PER_RUN)


def derive_seed(*purpose: object) -> int:
    """Return a seed for a purpose; seeds of neighboring numbers are independent."""
    return random.Random("/".join(map(str, purpose))).getrandbits(63)


def shuffled_batches(
    images: int, settings: Reconstruction, seed: int, divisor: int = 1
) -> Iterator[Tensor]:
    """Yield the indices of one batch of this process after the other, without end.

    Batches are drawn anew in every epoch, or are always the same in random order, as `settings.batches` says.

    Args:
        images: how many there are.
        settings: images per step, and how batches are drawn.
        seed: of the drawing.
        divisor: a batch has so many times fewer images than `settings` says.
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(max(1, distributed.share_of_batch(settings.images_per_step) // divisor), images)
    fixed = torch.arange(images)
    while True:
        if settings.batches == "fixed":
            batches = fixed[: images // size * size].view(-1, size)
            for index in torch.randint(len(batches), (len(batches),), generator=generator):
                yield batches[index]
        else:
            order = torch.randperm(images, generator=generator)
            yield from order[: images // size * size].view(-1, size)
