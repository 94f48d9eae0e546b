"""Optimize one group: learn how its weights round and how large its scales are."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mrecg import distributed
from mrecg.cache.activation_cache import CachedActivations
from mrecg.config.optimization import Precision, Reconstruction
from mrecg.graph.units import Unit
from mrecg.optimize.adam import Adam
from mrecg.optimize.cuda_graph import CudaGraph, Recorder, ReplayedStep
from mrecg.optimize.schedule import (
    derive_seed,
    group_rates,
    report_interval,
    schedule_at,
    shuffled_batches,
)
from mrecg.optimize.step import BatchReader, Drawn, Step
from mrecg.planning.precision import choose_precision
from mrecg.planning.windows import View, find_view
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.quantizers.activation import FakeQuantizer
from mrecg.quantizers.adaround import LearnedRounding
from mrecg.quantizers.qdrop import RandomMask
from mrecg.quantizers.state import QuantizerState
from mrecg.quantizers.weight import WeightState
from mrecg.records.record import Curve
from mrecg.shortage import Parts, Shortages

__all__ = ["GroupResult", "GroupValues", "optimize_group"]

CURVE_POINTS = 40
"""Points of a recorded curve at most."""
MOST_UNDECIDED = 1e-3
"""Fraction of the roundings that may be undecided at an early stop."""
SMALLEST_GAIN = 5e-3
"""Fraction by which the loss has to fall from one report to the next, or it is flat."""


@dataclass(frozen=True)
class GroupValues:
    """The cached activations of a group.

    Attributes:
        of_float: its inputs in the float network.
        quantized: its inputs behind the quantized units before.
        targets: its outputs in the float network.
    """

    of_float: CachedActivations
    quantized: CachedActivations
    targets: CachedActivations


@dataclass(frozen=True)
class GroupResult:
    """Figures of one group's optimization.

    Attributes:
        steps: that were taken.
        first_loss: reconstruction loss of the first step.
        last_loss: mean of the last two reports' steps, with soft rounding.
        diverged: the first step whose loss was NaN or infinite, if there was one; the losses and the curve are of those before.
        undecided: roundings that were not decided before they were made hard.
        roundings: all roundings of the group.
        accepted: whether the result was better than rounding to nearest, and kept.
        curve: the loss against steps.
        precision: in which the steps multiplied; `None` without steps.
    """

    steps: int
    first_loss: float
    last_loss: float
    undecided: int = 0
    roundings: int = 0
    accepted: bool = True
    curve: Curve = ()
    diverged: int | None = None
    precision: Precision | None = None


@dataclass(frozen=True)
class _Variables:
    """Learned variables of a group, by the names of quantizers."""

    roundings: Mapping[str, LearnedRounding]
    activations: Mapping[str, FakeQuantizer]

    def current(self) -> QuantizerState:
        """Return the state with every rounding made hard."""
        return QuantizerState(
            {name: WeightState(*one.harden()) for name, one in self.roundings.items()},
            {name: one.current() for name, one in self.activations.items()},
        )


@torch.enable_grad()
def optimize_group(
    prepared: PreparedGraph,
    units: Sequence[Unit],
    nearest: QuantizerState,
    values: GroupValues,
    settings: Reconstruction,
    seed: int,
    report: Callable[[int, float], None],
    previous: QuantizerState | None = None,
    shortages: Shortages | None = None,
) -> tuple[QuantizerState, GroupResult]:
    """Learn the roundings and scales of neighboring units so that they give the float network's outputs.

    Args:
        prepared: the network.
        units: the group, run in order.
        nearest: calibrated scales and codes to nearest; biases stay rounded to these scales meanwhile.
        values: the group's inputs and targets.
        settings: steps, rates, penalty, dropping.
        seed: of batches and dropping.
        report: called now and then with the step and its loss.
        previous: an earlier result to continue from; without one, learning starts at the float weights.
        shortages: are told where memory is not enough for a batch as a whole.

    Returns:
        `nearest` with what was learned, and the figures.
    """
    mask = None
    if settings.keep_quantized_probability < 1:
        # Every process draws masks of its own, for images of its own.
        own_seed = derive_seed(seed, "mask", distributed.rank())
        mask = RandomMask(settings.keep_quantized_probability, own_seed)
    start = nearest if previous is None else nearest | previous
    variables = _start(prepared, units, nearest, previous, settings, mask)
    groups = _adam_groups(prepared, variables, settings)
    learned = [one for group in groups for one in group]
    # Biases stay rounded to the calibrated scales; what is learned is bound anew in every step.
    biases = prepared.bind(units, nearest, without={*prepared.weights, *prepared.activations})
    learning = {*variables.roundings, *variables.activations}
    step = Step(
        _reader(values, mixes=mask is not None),
        units,
        {**prepared.bind(units, start, learning), **biases, **variables.activations},
        variables.roundings,
        learned,
        Adam(*groups),
        mask,
        choose_precision(settings.precision, learned[0].device),
        Parts(shortages or Shortages(), "steps of groups"),
    )
    result = _run(step, list(variables.roundings.values()), settings, seed, report)
    return start | variables.current(), replace(result, precision=step.precision)


def _reader(values: GroupValues, mixes: bool) -> BatchReader:
    mixed = {
        name: values.of_float[name]
        for name, one in values.quantized.items()
        if mixes and values.of_float[name] is not one
    }
    return BatchReader(values.quantized, mixed, values.targets)


def _start(
    prepared: PreparedGraph,
    units: Sequence[Unit],
    nearest: QuantizerState,
    previous: QuantizerState | None,
    settings: Reconstruction,
    mask: RandomMask | None,
) -> _Variables:
    start = nearest if previous is None else previous
    relative = settings.activation_rate_unit == "relative"
    return _Variables(
        {
            name: prepared.weights[name].learn_rounding(
                weight,
                nearest.weights[name].scaling,
                None if previous is None else previous.weights[name],
            )
            for name, weight in prepared.learned_weights(units, settings.exclude).items()
        },
        {
            name: quantizer.learn(start.activations[name], mask, relative)
            for name, quantizer in prepared.learned_activations(units).items()
        },
    )


def _adam_groups(
    prepared: PreparedGraph, variables: _Variables, settings: Reconstruction
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the variables in the order of `GroupRates`."""
    learns_weight_scales = group_rates(settings).weight_scale > 0
    return (
        [one.alpha for one in variables.roundings.values()],
        [variable for one in variables.activations.values() for variable in one.variables],
        [
            one.scale.delta
            for name, one in variables.roundings.items()
            if learns_weight_scales and not prepared.weights[name].fixed_scale
        ],
    )


def _run(
    step: Step,
    roundings: Sequence[LearnedRounding],
    settings: Reconstruction,
    seed: int,
    report: Callable[[int, float], None],
) -> GroupResult:
    """Take the steps, until the last or until roundings are decided and the loss is flat."""
    device = step.variables[0].device
    recorder, tell = _recorder(settings, device), step.parts.shortages.tell
    take = step if recorder is None else ReplayedStep(step, recorder, tell)
    batches = _batches(step, settings, seed)
    # One tensor for all: small ones that outlive their step keep the memory of large ones apart, which then grows.
    losses = torch.empty(settings.step_count, device=device)
    interval = report_interval(settings.step_count)
    for done in range(1, settings.step_count + 1):
        losses[done - 1] = take(next(batches), schedule_at(settings, done - 1))
        if done % interval == 0:
            # Of all processes, so that they stop together.
            loss = float(losses[done - 1])
            (found,) = distributed.average([loss])
            if not math.isfinite(found):
                break
            report(done, loss)
            flat = settings.early_stop and _is_flat(losses[:done], interval)
            if flat and _is_decided(roundings):
                break
    finite = _count_finite(losses[:done])
    if finite == 0:
        return GroupResult(steps=done, first_loss=math.nan, last_loss=math.nan, diverged=1)
    tail = losses[:finite][-2 * interval :].mean()
    first_loss, last_loss = distributed.average([float(losses[0]), float(tail)])
    return GroupResult(
        steps=done,
        first_loss=first_loss,
        last_loss=last_loss,
        undecided=sum(one.count_undecided() for one in roundings),
        roundings=sum(one.alpha.numel() for one in roundings),
        curve=_curve(losses[:finite]),
        diverged=None if finite == done else finite + 1,
    )


def _batches(step: Step, settings: Reconstruction, seed: int) -> Iterator[Drawn]:
    """Draw one batch of this process after the other, without end.

    Where maps are large, a batch is only part of what the recipe says.
    """
    view = View()
    if settings.window != "none":
        view = find_view(step.units, list(step.reader.targets), settings.window)
    # Every process draws places of its own, for images of its own.
    generator = torch.Generator().manual_seed(derive_seed(seed, "windows", distributed.rank()))
    for chosen in shuffled_batches(step.reader.images, settings, seed, view.divisor):
        windows = None if view.windows is None else view.windows.draw(len(chosen), generator)
        yield Drawn(chosen, windows)


def _count_finite(losses: Float[Tensor, " steps"]) -> int:
    """Return how many steps were taken before the first whose loss is NaN or infinite in any process."""
    wrong = ~losses.isfinite()
    if not distributed.total([float(wrong.any())])[0]:
        return len(losses)
    # Every process counts the steps that are wrong up to each; where the sum is 0, none is.
    return distributed.total(wrong.cumsum(0).tolist()).count(0.0)


def _curve(losses: Float[Tensor, " steps"]) -> Curve:
    """Return the mean loss of parts of equal length, over all processes."""
    size = -(-len(losses) // CURVE_POINTS)
    parts = losses.split(size)
    means = distributed.average(torch.stack([part.mean() for part in parts]).tolist())
    ends = [min(size * (index + 1), len(losses)) for index in range(len(parts))]
    return tuple(zip(ends, means, strict=True))


def _is_flat(losses: Float[Tensor, " steps"], interval: int) -> bool:
    """Return whether the loss fell too little from one report to the next, over all processes."""
    if len(losses) < 2 * interval:
        return False
    recent = losses[-2 * interval :]
    before, now = distributed.average(
        [float(recent[:interval].mean()), float(recent[interval:].mean())]
    )
    return now > (1 - SMALLEST_GAIN) * before


def _is_decided(roundings: Sequence[LearnedRounding]) -> bool:
    if not roundings:  # where only scales are learned, the noise of dropping would end every group
        return False
    undecided = sum(one.count_undecided() for one in roundings)
    return undecided <= MOST_UNDECIDED * sum(one.alpha.numel() for one in roundings)


def _recorder(settings: Reconstruction, device: torch.device) -> Recorder | None:
    """Return what repeats steps, if it is wanted and possible: an exchange between processes cannot be recorded."""
    if settings.cuda_graphs and device.type == "cuda" and distributed.count() == 1:
        return CudaGraph(device)
    return None
