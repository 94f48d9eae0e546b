"""What was tried to end a group's steps sooner, and is no setting: images that tune nothing say when.

At every report the group's roundings are made hard and its error is measured on the images that are set aside. The group ends when
none of the last few errors was lower than the ones before.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

from mrecg import pipeline
from mrecg.cache.storage import Storage
from mrecg.optimize import all_groups, group, reconstruction
from mrecg.optimize.judge import Judge
from mrecg.quantizers.activation import FakeQuantizer
from mrecg.quantizers.state import QuantizerState
from mrecg.quantizers.weight import WeightState

__all__ = ["stopped_by_held_out_images"]

PATIENCE = 3
"""Reports, of 20 in all steps, without a lower error."""
SMALLEST_GAIN = 5e-3
"""Fraction by which the error has to be lower."""


class _Rule:
    """Measure a group's error on images that tune nothing; say when it does not fall any more."""

    def __init__(self) -> None:
        self.judge: Judge | None = None
        self.errors: list[float] = []
        self.arguments: tuple[Any, ...] = ()
        self.step: Any = None

    def is_over(self, roundings: Sequence[object]) -> bool:
        """Return whether the group ends; in the place of `group._is_decided`."""
        assert self.judge is not None
        prepared, units, nearest, *_, previous, _ = self.arguments
        start = nearest if previous is None else nearest | previous
        learned = prepared.learned_activations(units)
        scales = {
            name: one.current()
            for name, one in self.step.bindings.items()
            if name in learned and isinstance(one, FakeQuantizer)
        }
        codes = {name: WeightState(*one.harden()) for name, one in self.step.roundings.items()}
        state = start | QuantizerState(codes, scales)
        self.errors.append(self.judge.run_quantized(units, state, keep=False))
        before, recent = self.errors[:-PATIENCE], self.errors[-PATIENCE:]
        return bool(before) and min(recent) > (1 - SMALLEST_GAIN) * min(before)


@contextlib.contextmanager
def stopped_by_held_out_images() -> Iterator[None]:
    """Let every group of a run end by that rule; of joins that are tried nothing is known here."""
    rule = _Rule()
    optimize_groups, run_group = all_groups.optimize_groups, all_groups._GroupRun.run
    optimize_group, run = group.optimize_group, group._run

    def optimizing_groups(prepared: Any, images: Any, *rest: Any) -> Any:
        rule.judge = Judge(prepared, images.judging, Storage(prepared.device))
        return optimize_groups(prepared, images, *rest)

    def running_group(self: Any, before: QuantizerState, place: int) -> Any:
        assert rule.judge is not None
        rule.judge.run_float(self.members)
        found, read = run_group(self, before, place)
        rule.judge.run_quantized(self.members, before | found.state, keep=True)
        rule.judge.drop(self.members)
        return found, read

    def optimizing_group(*arguments: Any) -> Any:
        rule.arguments, rule.errors = arguments, []
        return optimize_group(*arguments)

    def running(step: Any, *rest: Any) -> Any:
        rule.step = step
        return run(step, *rest)

    with contextlib.ExitStack() as stack:
        for owner, name, replacement in (
            (pipeline, "optimize_groups", optimizing_groups),
            (all_groups._GroupRun, "run", running_group),
            (reconstruction, "optimize_group", optimizing_group),
            (group, "_run", running),
            (group, "_is_flat", lambda losses, interval: True),
            (group, "_is_decided", rule.is_over),
        ):
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield
