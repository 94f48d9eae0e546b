"""Runs side by side: what they reached, what it took, and what was set differently."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from mrecg.config.yaml_files import flat
from mrecg.errors import RunError
from mrecg.records.accuracy_difference import AccuracyDifference
from mrecg.report.reported_run import ReportedRun

__all__ = ["ComparedGroup", "Comparison", "Mean", "compare_runs"]


class Mean(NamedTuple):
    """The mean over the runs of a group.

    Attributes:
        value: the mean.
        error: its standard error; `None` where there is one run.
    """

    value: float
    error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean | None":
        """Return the mean of some values; `None` where there are none."""
        if not values:
            return None
        mean = math.fsum(values) / len(values)
        if len(values) == 1:
            return cls(mean, None)
        variance = math.fsum((one - mean) ** 2 for one in values) / (len(values) - 1)
        return cls(mean, math.sqrt(variance / len(values)))


@dataclass(frozen=True)
class ComparedGroup:
    """Runs that differ in nothing but their seeds.

    Attributes:
        label: what it is called.
        runs: at least one.
    """

    label: str
    runs: tuple[ReportedRun, ...]

    @property
    def top1(self) -> Mean | None:
        """Return the accuracy of the quantized networks in percent, where all were measured."""
        found = [run.after.top1 for run in self.runs if run.after is not None]
        return Mean.of(found) if len(found) == len(self.runs) else None

    @property
    def float_top1(self) -> Mean | None:
        """Return the accuracy of the float network in percent, where it was measured with all."""
        found = [run.before.top1 for run in self.runs if run.before is not None]
        return Mean.of(found) if len(found) == len(self.runs) else None

    @property
    def seconds(self) -> Mean:
        """Return the wall time of a run."""
        return _mean([run.seconds for run in self.runs])

    @property
    def size(self) -> Mean | None:
        """Return the bytes of the parameters, where they were recorded."""
        found = [run.record.size.quantized_bytes for run in self.runs if run.record.size]
        return Mean.of(found) if len(found) == len(self.runs) else None

    @property
    def seeds(self) -> dict[int, ReportedRun]:
        """Return its runs by their seeds."""
        return {run.recipe.seed: run for run in self.runs}

    def losses(self, ends: Sequence[str]) -> list[list[float]]:
        """Return the relative losses of each run at some units."""
        return [[run.units[name].relative_loss for name in ends] for run in self.runs]

    def mean_losses(self, ends: Sequence[str]) -> list[float]:
        """Return the mean of these over the runs, unit by unit."""
        columns = zip(*self.losses(ends), strict=True)
        return [math.fsum(column) / len(self.runs) for column in columns]

    def largest_loss(self, ends: Sequence[str]) -> Mean | None:
        """Return the largest relative loss at some units."""
        return Mean.of([max(losses) for losses in self.losses(ends) if losses])

    def last_loss(self, ends: Sequence[str]) -> Mean | None:
        """Return the relative loss at the last of some units."""
        return Mean.of([losses[-1] for losses in self.losses(ends) if losses])


def _mean(values: Sequence[float]) -> Mean:
    found = Mean.of(values)
    assert found is not None, "a group has runs"
    return found


@dataclass(frozen=True, repr=False)
class Comparison:
    """Groups of runs; the first is what the others are compared with.

    Attributes:
        groups: at least one.
    """

    groups: tuple[ComparedGroup, ...]

    @property
    def runs(self) -> tuple[ReportedRun, ...]:
        """Return the runs of all groups."""
        return tuple(run for group in self.groups for run in group.runs)

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """Return the units where groups of all runs end, in order; none where the networks are not the same."""
        names = [list(run.units) for run in self.runs]
        if any(one != names[0] for one in names):
            return ()
        shared = set.intersection(*(set(run.ends) for run in self.runs))
        return tuple(name for name in names[0] if name in shared)

    @property
    def settings(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return the settings that differ, each with its value in every group."""
        found = [_settings(group.runs[0]) for group in self.groups]
        keys = dict.fromkeys(key for each in found for key in each)
        rows = [(key, tuple(each.get(key, "") for each in found)) for key in keys]
        return [(key, values) for key, values in rows if len(set(values)) > 1]

    def difference(self, group: ComparedGroup) -> AccuracyDifference | None:
        """Return how much more accurate a group is than the first one; `None` where that is not known.

        Over two seeds or more that both have, seed by seed; else of a single run each.
        """
        first = self.groups[0]
        shared = [seed for seed in first.seeds if seed in group.seeds]
        pairs = [
            (before, after)
            for seed in shared
            if (before := first.seeds[seed].after) and (after := group.seeds[seed].after)
        ]
        if len(pairs) > 1:
            return AccuracyDifference.over_seeds([b.top1 - a.top1 for a, b in pairs])
        if len(first.runs) == len(group.runs) == 1:
            before, after = first.runs[0].after, group.runs[0].after
            return AccuracyDifference.between(before, after) if before and after else None
        return AccuracyDifference.between(*pairs[0]) if pairs else None

    def __repr__(self) -> str:
        from mrecg.report.comparison_page import comparison_as_text

        return comparison_as_text(self)

    def _repr_html_(self) -> str:
        from mrecg.report.notebook import comparison_as_html

        return comparison_as_html(self)

    def as_data(self) -> dict[str, Any]:
        """Return everything for a script."""
        return {
            "ends": list(self.ends),
            "settings": {key: list(values) for key, values in self.settings},
            "groups": [self._group_as_data(group) for group in self.groups],
        }

    def _group_as_data(self, group: ComparedGroup) -> dict[str, Any]:
        difference = None if group is self.groups[0] else self.difference(group)
        means = {
            "float_top1": group.float_top1,
            "top1": group.top1,
            "largest_loss": group.largest_loss(self.ends),
            "last_loss": group.last_loss(self.ends),
            "seconds": group.seconds,
            "bytes": group.size,
        }
        return {
            "label": group.label,
            "runs": [run.name for run in group.runs],
            "seeds": [run.recipe.seed for run in group.runs],
            **{key: None if mean is None else mean._asdict() for key, mean in means.items()},
            "losses": group.losses(self.ends),
            "difference": None if difference is None else vars(difference),
        }


def compare_runs(runs: Sequence[ReportedRun]) -> Comparison:
    """Put runs that differ only in their seeds together, in the order of their first ones.

    Raises:
        RunError: there are fewer than two runs, or one is given twice.
    """
    if len(runs) < 2:
        raise RunError(f"A comparison needs at least two runs, got {len(runs)}; name another one.")
    names = [run.name for run in runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RunError(f"The run {twice} is given twice; name each run once.")
    groups: dict[str, list[ReportedRun]] = {}
    for run in runs:
        key = json.dumps([_settings(run), list(run.units)])
        groups.setdefault(key, []).append(run)
    labels = [_label(members) for members in groups.values()]
    return Comparison(
        tuple(
            ComparedGroup(
                label if labels.count(label) == 1 else f"{label}, from {members[0].name}",
                tuple(members),
            )
            for label, members in zip(labels, groups.values(), strict=True)
        )
    )


def _label(members: Sequence[ReportedRun]) -> str:
    if len(members) == 1:
        return members[0].name
    return f"{members[0].recipe.name} ({len(members)} seeds)"


def _settings(run: ReportedRun) -> dict[str, str]:
    """Return what was chosen for a run, but for its seed."""
    chosen = run.recipe.model_dump(mode="json", exclude={"seed", "name"})
    found = {key: json.dumps(value, ensure_ascii=False).strip('"') for key, value in flat(chosen)}
    return found | {"calibration images": str(run.record.images)}
