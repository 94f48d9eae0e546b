"""Oscillation counts the rises of the loss that are followed by a fall, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrecg.records.oscillation import Oscillation

# Whole numbers: sums of differences are exact.
LOSSES = st.lists(st.integers(0, 100).map(float), min_size=1, max_size=12)


def along(losses: list[float]) -> Oscillation:
    return Oscillation.along([str(i) for i in range(len(losses))], losses)


@given(LOSSES)
def test_a_loss_that_only_rises_or_only_falls_does_not_oscillate(losses: list[float]) -> None:
    for monotonic in (sorted(losses), sorted(losses, reverse=True)):
        assert along(monotonic).jumps == ()
        assert along(monotonic).total == 0


@given(LOSSES)
def test_jumps_rise_from_the_lowest_loss_since_the_one_before(losses: list[float]) -> None:
    found = along(losses)
    start = 0
    for jump in found.jumps:
        peak = int(jump.unit)
        assert start <= peak
        assert losses[peak] > losses[peak + 1]
        assert jump.size == losses[peak] - min(losses[start : peak + 1]) > 0
        start = peak + 1
    assert found.total == sum(jump.size for jump in found.jumps)


@given(LOSSES)
def test_a_network_oscillates_exactly_if_a_rise_is_followed_by_a_fall(losses: list[float]) -> None:
    falls_after_a_rise = any(
        low < peak and after < peak
        for i, low in enumerate(losses)
        for peak, after in zip(losses[i + 1 :], losses[i + 2 :], strict=False)
    )
    assert bool(along(losses).jumps) is falls_after_a_rise


@given(LOSSES, st.integers(1, 8))
def test_oscillation_scales_with_the_losses(losses: list[float], factor: int) -> None:
    before, after = along(losses), along([factor * loss for loss in losses])
    assert after.total == factor * before.total
    assert [jump.unit for jump in after.jumps] == [jump.unit for jump in before.jumps]


@given(LOSSES, st.integers(0, 50))
def test_oscillation_does_not_depend_on_the_level(losses: list[float], level: int) -> None:
    assert along([level + loss for loss in losses]).jumps == along(losses).jumps


@given(LOSSES)
def test_a_unit_repeated_adds_nothing(losses: list[float]) -> None:
    """Plateaus are neither rises nor falls."""
    twice = [loss for loss in losses for _ in range(2)]
    assert along(twice).total == along(losses).total


@given(LOSSES)
def test_the_largest_loss_governs(losses: list[float]) -> None:
    found = along(losses)
    assert found.largest_loss == max(losses)
    assert int(found.largest_unit) == losses.index(max(losses))


@pytest.mark.parametrize(
    ("losses", "jumps"),
    [
        ([1, 3, 2, 5, 4], [("1", 2), ("3", 3)]),
        ([5, 1, 4, 2], [("2", 3)]),
        ([1, 2, 3, 3, 1], [("3", 2)]),
        ([1, 2, 3], []),
    ],
)
def test_jumps_of_small_series(losses: list[float], jumps: list[tuple[str, float]]) -> None:
    assert [(jump.unit, jump.size) for jump in along(losses).jumps] == jumps


def test_oscillation_counts_rises_that_fall_again() -> None:
    names = list("abcdef")
    steady = Oscillation.along(names, [1, 2, 3, 4, 5, 6])
    assert steady.jumps == ()
    assert (steady.largest_loss, steady.largest_unit) == (6, "f")
    falling = Oscillation.along(names, [6, 5, 4, 3, 2, 1])
    assert falling.jumps == ()
    wild = Oscillation.along(names, [1, 4, 2, 3, 7, 5])
    assert [(jump.unit, jump.size) for jump in wild.jumps] == [("b", 3), ("e", 5)]
    assert wild.total == 8
