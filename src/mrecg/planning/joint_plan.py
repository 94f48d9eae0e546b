"""The plan: which units are reconstructed jointly (MRECG, eq. 16)."""

import itertools
from collections.abc import Sequence, Set
from typing import Protocol, runtime_checkable

from mrecg.config.settings import PlanRule
from mrecg.errors import PlanError, did_you_mean
from mrecg.planning.capacity import are_homogeneous, cap_diff, mod_cap
from mrecg.records.plan import Layer, NeighborPair, Plan

__all__ = ["Plannable", "check_plan", "joined_by_scheme", "make_plan", "single_plan"]


@runtime_checkable
class Plannable(Protocol):
    """The part of a unit that a rule reads; a unit's record has it, too."""

    @property
    def name(self) -> str: ...
    @property
    def layers(self) -> tuple[Layer, ...]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


def make_plan(units: Sequence[Plannable], rule: PlanRule, losses: Sequence[float] = ()) -> Plan:
    """Return the plan that a rule gives.

    The first and the last unit stay single: they keep a width of their own, which makes their capacity incomparable.
    Of the other neighbors those with the largest CapDiff are joined, as long as no group outgrows
    `largest_group`; `count="auto"` joins those whose CapDiff exceeds the mean over the candidates, `count="all"` as many as fit.

    Args:
        units: the chain.
        rule: from the recipe.
        losses: of every unit after a run without joining; only for the rule `loss`.

    Raises:
        PlanError: an explicit plan names units that the model does not have or that are no neighbors, or a scheme
            counts other units than the model's.
    """
    if rule.join == "scheme":
        joined = joined_by_scheme(rule.scheme, [unit.name for unit in units])
        return _plan(units, joined, "scheme", (), ())
    if rule.join == "explicit":
        return _explicit(units, rule.groups)
    metric: tuple[float, ...] = ()
    if rule.join == "capacity":
        metric = tuple(mod_cap(unit.layers) for unit in units)
    elif rule.join == "loss":
        metric = tuple(losses)
    scores = _scores(units, rule, metric)
    chosen = _choose(scores, rule)
    return _plan(units, chosen, _describe(rule), metric, cap_diff(metric, rule.difference))


def single_plan(units: Sequence[Plannable]) -> Plan:
    """Return the plan that joins nothing."""
    return Plan(groups=tuple((unit.name,) for unit in units))


def check_plan(plan: Plan, units: Sequence[Plannable]) -> Plan:
    """Return `plan` if its groups are the model's units in their order; a plan that was edited says so in its rule.

    Raises:
        PlanError: they are not; the message names the first that differs.
    """
    if () in plan.groups:
        raise PlanError(f"The plan's group {plan.groups.index(()) + 1} names no unit; take it out.")
    names = [unit.name for unit in units]
    planned = [name for group in plan.groups for name in group]
    for position, (expected, found) in enumerate(zip(names, planned, strict=False), start=1):
        if expected != found:
            raise PlanError(
                f"The plan does not fit the model: its unit {position} is '{found}', the model's is '{expected}'."
            )
    if len(names) != len(planned):
        raise PlanError(
            f"The plan does not fit the model: it lists {len(planned)} units, the model has {len(names)}."
        )
    given = plan.after(plan.groups, ())
    if given.neighbors == plan.neighbors:
        return given
    return given.model_copy(update={"rule": f"edited by hand, before: {plan.rule}"})


def _explicit(units: Sequence[Plannable], groups: Sequence[Sequence[str]]) -> Plan:
    names = [unit.name for unit in units]
    chosen: set[int] = set()
    for group in groups:
        for name in group:
            if name not in names:
                raise PlanError(
                    f"The plan names the unit '{name}', which the model does not have"
                    f"{did_you_mean(name, names)}"
                )
        first = names.index(group[0]) if group else 0
        if tuple(names[first : first + len(group)]) != tuple(group):
            raise PlanError(
                f"The plan joins ({' '.join(group)}), which are not neighbors; "
                f"the model's order is {', '.join(names)}."
            )
        chosen |= set(range(first, first + len(group) - 1))
    return _plan(units, chosen, "explicit", (), ())


def joined_by_scheme(sizes: Sequence[int], names: Sequence[str]) -> frozenset[int]:
    """Return the positions whose unit a scheme joins to the next one.

    In the authors' counting the stem may include the first block, and the classifier the last convolution, as in their
    MobileNetV2: a scheme that counts two units less than the model is read so.

    Args:
        sizes: how many units each group takes.
        names: of the model's units.

    Raises:
        PlanError: the scheme counts other units than the model has.
    """
    sizes = list(sizes)
    if sizes and len(names) == sum(sizes) + 2:
        sizes[0] += 1
        sizes[-1] += 1
    if len(names) != sum(sizes):
        raise PlanError(
            f"The scheme counts {sum(sizes)} units, the model has {len(names)}: {', '.join(names)}."
        )
    ends = set(itertools.accumulate(sizes))
    return frozenset(range(len(names))) - {end - 1 for end in ends}


def _scores(
    units: Sequence[Plannable], rule: PlanRule, metric: Sequence[float]
) -> dict[int, float]:
    """Return CapDiff of the neighbors that may be joined, by the position of the first."""
    candidates = range(1, len(units) - 2)
    if rule.join == "none":
        return {}
    if rule.join == "stage":
        return {i: 1.0 for i in candidates if units[i].shape != units[i + 1].shape}
    values = cap_diff(metric, rule.difference)
    return {i: values[i] for i in candidates}


def _choose(scores: dict[int, float], rule: PlanRule) -> set[int]:
    if not scores:
        return set()
    mean = sum(scores.values()) / len(scores)
    wanted = len(scores)
    if isinstance(rule.count, int):
        wanted = rule.count
    elif rule.count == "auto" and rule.join != "stage":
        wanted = sum(score > mean for score in scores.values())
    chosen: set[int] = set()
    for position in sorted(scores, key=lambda i: (-scores[i], i)):
        if len(chosen) == wanted:
            break
        if _group_size(chosen | {position}, position) <= rule.largest_group:
            chosen.add(position)
    return chosen


def _group_size(chosen: set[int], position: int) -> int:
    """Return the number of units in the group that the pair at `position` belongs to."""
    first = last = position
    while first - 1 in chosen:
        first -= 1
    while last + 1 in chosen:
        last += 1
    return last - first + 2


def _plan(
    units: Sequence[Plannable],
    chosen: Set[int],
    rule: str,
    metric: tuple[float, ...],
    scores: tuple[float, ...],
) -> Plan:
    groups: list[list[str]] = []
    for position, unit in enumerate(units):
        if position - 1 in chosen:
            groups[-1].append(unit.name)
        else:
            groups.append([unit.name])
    neighbors = tuple(
        NeighborPair(
            first=first.name,
            second=second.name,
            difference=scores[position] if scores else None,
            homogeneous=are_homogeneous(first.layers, second.layers),
            joined=position in chosen,
        )
        for position, (first, second) in enumerate(itertools.pairwise(units))
    )
    return Plan(groups=tuple(map(tuple, groups)), rule=rule, metric=metric, neighbors=neighbors)


def _describe(rule: PlanRule) -> str:
    if rule.join == "none":
        return f"single {rule.granularity}s"
    if rule.join == "stage":
        return f"{rule.granularity}s joined where the shape changes"
    counts = {"auto": "those above the mean", "all": "all, the largest first"}
    count = counts[rule.count] if isinstance(rule.count, str) else f"the {rule.count} largest"
    return f"{rule.granularity}s joined by {rule.difference} difference of {rule.join}, {count}"
