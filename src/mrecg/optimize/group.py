"""One group's optimisation: learn how its weights round and how wide its activation steps are."""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mrecg import distributed
from mrecg.cache.activation_cache import Values
from mrecg.config.settings import Reconstruction
from mrecg.graph.units import Unit
from mrecg.optimize.adam import Adam
from mrecg.optimize.cuda_graph import CudaGraph, Recorder, ReplayedStep
from mrecg.optimize.step import Batch, Numbers, Step
from mrecg.quantizers.adaround import LearnedRounding, Penalty, beta_at
from mrecg.quantizers.lsq import ActivationQuantizer, RandomMask
from mrecg.quantizers.weight import WeightQuantizer

__all__ = [
    "REPORTS_PER_RUN",
    "Tuned",
    "activation_rate",
    "cosine",
    "derived_seed",
    "rounding_rate",
    "shuffled_batches",
    "tune",
    "weight_scale_rate",
]

PAPER_ROUNDING_RATE = 1e-3
ROUNDING_REACH = 20.0
"""Rate × steps. Adam moves a rounding variable by at most the rate, and it needs 2.4 from undecided to decided."""
LARGEST_ROUNDING_RATE = 5e-2
ACTIVATION_REACH = 0.5
"""Rate × steps: with the cosine decay, a step can change by a quarter of itself."""
LARGEST_ACTIVATION_RATE = 5e-3
WEIGHT_SCALE_REACH = 4.5
"""Rate × steps of the weight ranges, in code steps."""
LARGEST_WEIGHT_SCALE_RATE = 3e-2
REPORTS_PER_RUN = 20
"""How often tuning reports; a group then asks whether it may stop early, too."""
MOST_UNDECIDED = 1e-3
"""Fraction of the roundings that may be undecided at an early stop."""
SMALLEST_GAIN = 5e-3
"""Fraction by which the loss has to fall from one report to the next, or it is flat."""


@dataclass(frozen=True)
class Tuned:
    """What tuning one group found.

    Attributes:
        steps: that were taken.
        first_loss: reconstruction loss of the first step.
        last_loss: mean of the last two reports' steps, with soft rounding.
        undecided: roundings that were not decided before they were made hard.
        roundings: all roundings of the group.
        accepted: whether the result was better than rounding to nearest, and kept.
    """

    steps: int
    first_loss: float
    last_loss: float
    undecided: int
    roundings: int
    accepted: bool = True


def rounding_rate(settings: Reconstruction) -> float:
    """Adam's rate for the rounding variables: the paper's, or more where the budget is short."""
    if settings.rounding_rate != "auto":
        return settings.rounding_rate
    return min(LARGEST_ROUNDING_RATE, max(PAPER_ROUNDING_RATE, ROUNDING_REACH / settings.steps))


def activation_rate(settings: Reconstruction) -> float:
    """Adam's rate for the factors of the activation steps, scaled with the budget like the rounding rate."""
    if settings.activation_rate != "auto":
        return settings.activation_rate
    return min(LARGEST_ACTIVATION_RATE, ACTIVATION_REACH / settings.steps)


def weight_scale_rate(settings: Reconstruction) -> float:
    """Adam's rate for the growth of the weight ranges, scaled with the budget."""
    if settings.weight_scale_rate != "auto":
        return settings.weight_scale_rate
    return min(LARGEST_WEIGHT_SCALE_RATE, WEIGHT_SCALE_REACH / settings.steps)


@torch.enable_grad()
def tune(
    units: Sequence[Unit],
    weights: Mapping[str, tuple[WeightQuantizer, Tensor]],
    activations: Mapping[str, ActivationQuantizer],
    plain: Values,
    quantized: Values,
    targets: Values,
    settings: Reconstruction,
    seed: int,
    report: Callable[[int, float], None],
    resume: bool = False,
) -> Tuned:
    """Learn the rounding of `weights` and the steps of `activations` so that the units give `targets`.

    Args:
        units: neighbouring units, run in order.
        weights: the group's weight quantizers with their float weights.
        activations: the group's activation quantizers.
        plain: the group's inputs in the float network.
        quantized: the group's inputs behind the quantized units before.
        targets: the group's outputs in the float network.
        settings: steps, rates, penalty, dropping.
        seed: of batches and dropping.
        report: called now and then with the step and its loss.
        resume: whether to continue from what the quantizers hold, not from the float weights.
    """
    mask = None
    if settings.keep_quantized_probability < 1:
        # Every process draws masks of its own, for images of its own.
        own_seed = derived_seed(seed, "mask", distributed.rank())
        mask = RandomMask(settings.keep_quantized_probability, own_seed)
    roundings = [quantizer.start_learning(weight, resume) for quantizer, weight in weights.values()]
    logits = [rounding.logits for rounding in roundings]
    growths = [
        rounding.range.growth
        for rounding, (quantizer, _) in zip(roundings, weights.values(), strict=True)
        if not quantizer.fixed_scale and weight_scale_rate(settings)
    ]
    relative = settings.activation_rate_unit == "relative"
    started = [quantizer.start_learning(mask, relative) for quantizer in activations.values()]
    steps = [step for step in started if step is not None]
    learned = [*logits, *steps, *growths]
    adam = Adam(logits, steps, growths)
    quantizers = [quantizer for quantizer, _ in weights.values()]
    step = Step(units, quantizers, learned, adam, mask, settings.precision)
    recorder = _recorder(settings, learned[0].device)
    take = step if recorder is None else ReplayedStep(step, mask, recorder)
    batches = shuffled_batches(len(next(iter(targets.values()))), settings, seed)
    # One tensor for all: small ones that outlive their step keep the memory of large ones apart, which then grows.
    losses = torch.empty(settings.steps, device=learned[0].device)
    interval = max(1, settings.steps // REPORTS_PER_RUN)
    for done in range(1, settings.steps + 1):
        batch = Batch.of(next(batches), quantized, plain, targets, mixes=mask is not None)
        loss = take(batch, _numbers(settings, (done - 1) / settings.steps))
        losses[done - 1] = loss
        if done % interval == 0:
            report(done, float(loss))
            flat = settings.early_stop and _is_flat(losses[:done], interval)
            if flat and _is_decided(roundings):
                break
    for activation in activations.values():
        activation.stop_learning()
    undecided = sum(quantizer.stop_learning() for quantizer, _ in weights.values())
    tail = losses[:done][-2 * interval :].mean()
    first_loss, last_loss = distributed.average([float(losses[0]), float(tail)])
    return Tuned(
        steps=done,
        first_loss=first_loss,
        last_loss=last_loss,
        undecided=undecided,
        roundings=sum(variable.numel() for variable in logits),
    )


def _is_flat(losses: Float[Tensor, " steps"], interval: int) -> bool:
    """Whether the loss fell too little from one report to the next, over all processes."""
    if len(losses) < 2 * interval:
        return False
    recent = losses[-2 * interval :]
    before, now = distributed.average(
        [float(recent[:interval].mean()), float(recent[interval:].mean())]
    )
    return now > (1 - SMALLEST_GAIN) * before


def _is_decided(roundings: Sequence[LearnedRounding]) -> bool:
    if not roundings:  # where only steps are learned, the noise of dropping is no end
        return False
    undecided = sum(rounding.undecided() for rounding in roundings)
    return undecided <= MOST_UNDECIDED * sum(rounding.logits.numel() for rounding in roundings)


def _numbers(settings: Reconstruction, progress: float) -> Numbers:
    """Where the schedules stand after a fraction of the steps."""
    beta = beta_at(progress, settings.warm_up, settings.beta)
    penalty = Penalty(0.0, 2.0) if beta is None else Penalty(settings.penalty, beta)
    falling = (activation_rate(settings), weight_scale_rate(settings))
    rates = (rounding_rate(settings), *(rate * cosine(progress) for rate in falling))
    return Numbers(penalty, rates)


def _recorder(settings: Reconstruction, device: torch.device) -> Recorder | None:
    """What repeats steps, where that is wanted and can be had: an exchange of gradients between processes is not recorded."""
    if settings.cuda_graphs and device.type == "cuda" and distributed.count() == 1:
        return CudaGraph(device)
    return None


def cosine(progress: float) -> float:
    """The fraction of a learning rate that is left after a fraction of the steps."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def derived_seed(*purpose: object) -> int:
    """A seed for each purpose: those of neighbouring numbers have nothing in common, whatever else is the same."""
    return random.Random("/".join(map(str, purpose))).getrandbits(63)


def shuffled_batches(images: int, settings: Reconstruction, seed: int) -> Iterator[Tensor]:
    """Indices of one batch of this process after the other: reshuffled every epoch, or always the same in random order."""
    generator = torch.Generator().manual_seed(seed)
    size = min(distributed.share_of_batch(settings.batch_size), images)
    fixed = torch.arange(images)
    while True:
        if settings.batches == "fixed":
            batches = fixed[: images // size * size].view(-1, size)
            for index in torch.randint(len(batches), (len(batches),), generator=generator):
                yield batches[index]
        else:
            order = torch.randperm(images, generator=generator)
            yield from order[: images // size * size].view(-1, size)
