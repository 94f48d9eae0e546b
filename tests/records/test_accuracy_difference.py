"""Confidence intervals of differences of accuracy: they hold what they promise, and use answers where these are known."""

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrecg.records.accuracy_difference import AccuracyDifference
from mrecg.records.evaluation import Evaluation, pack_hits


def evaluation(hits: list[bool]) -> Evaluation:
    return Evaluation(len(hits), sum(hits), len(hits), pack_hits(hits))


PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200)


@given(PAIRS)
def test_the_difference_is_inside_of_its_interval(pairs: list[tuple[bool, bool]]) -> None:
    before, after = (evaluation(list(hits)) for hits in zip(*pairs, strict=True))
    for one in (before, replace(before, hits="")):
        found = AccuracyDifference.between(one, after)
        assert found.low <= found.points <= found.high
        assert found.points == pytest.approx(after.top1 - before.top1)
        assert found.standard_error > 0
    assert found.source == "counts"


@given(PAIRS)
def test_exchanged_networks_give_the_opposite(pairs: list[tuple[bool, bool]]) -> None:
    before, after = (evaluation(list(hits)) for hits in zip(*pairs, strict=True))
    there, back = (
        AccuracyDifference.between(before, after),
        AccuracyDifference.between(after, before),
    )
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_answers_give_a_narrower_interval_than_counts() -> None:
    """Two networks that mostly agree differ more certainly than their counts tell."""
    before = evaluation([True] * 900 + [False] * 100)
    after = evaluation([True] * 880 + [False] * 120)
    paired = AccuracyDifference.between(before, after)
    counted = AccuracyDifference.between(before, replace(after, hits=""))
    assert paired.source == "answers"
    assert paired.is_certain
    assert not counted.is_certain
    assert paired.high - paired.low < 0.5 * (counted.high - counted.low)


def test_an_interval_by_hand() -> None:
    """Of 86 images both networks have 53 right, the first alone 8, the second alone 16: Wald's interval of 8.5 and 16.5 of 88."""
    first = [True] * 53 + [False] * 16 + [True] * 8 + [False] * 9
    second = [True] * 53 + [True] * 16 + [False] * 8 + [False] * 9
    found = AccuracyDifference.between(evaluation(first), evaluation(second))
    assert found.points == pytest.approx(100 * 8 / 86)
    error = math.sqrt((25 / 88 - (8 / 88) ** 2) / 88)
    assert found.standard_error == pytest.approx(100 * error)
    assert (found.low, found.high) == pytest.approx(
        (100 * (8 / 88 - 1.96 * error), 100 * (8 / 88 + 1.96 * error)), abs=1e-3
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, hits="not base64!"),
        lambda one: replace(one, hits=pack_hits([True] * 10)),
        lambda one: replace(one, count=11),
    ],
)
def test_answers_that_do_not_fit_the_counts_are_not_used(
    change: Callable[[Evaluation], Evaluation],
) -> None:
    before = evaluation([True] * 5 + [False] * 5)
    found = AccuracyDifference.between(change(before), evaluation([False] * 5 + [True] * 5))
    assert found.source == "counts"


def test_seeds_follow_students_distribution() -> None:
    found = AccuracyDifference.over_seeds([1.0, 2.0, 3.0])
    assert found.points == 2
    assert found.standard_error == pytest.approx(3**-0.5)
    assert found.high == pytest.approx(2 + 4.303 * 3**-0.5)
    for count, quantile in ((21, 2.086), (31, 2.042), (1001, 1.962)):
        many = AccuracyDifference.over_seeds([float(place % 2) for place in range(count)])
        reach = (many.high - many.points) / many.standard_error
        assert reach == pytest.approx(quantile, abs=2e-3)


@pytest.mark.parametrize("paired", [True, False])
def test_intervals_hold_the_truth_as_often_as_they_promise(paired: bool) -> None:
    """Of small evaluations near 100 %, where Wald's interval fails."""
    chance, held, times = random.Random(0), 0, 600
    for _ in range(times):
        before = [chance.random() < 0.97 for _ in range(60)]
        after = [hit if chance.random() < 0.9 else chance.random() < 0.97 for hit in before]
        pair = [evaluation(before), evaluation(after)]
        if not paired:
            pair[1] = evaluation([chance.random() < 0.97 for _ in range(60)])
            pair = [replace(one, hits="") for one in pair]
        found = AccuracyDifference.between(*pair)
        held += found.low <= 0 <= found.high
    assert held / times > 0.93


def test_an_evaluation_shows_its_accuracy() -> None:
    found = evaluation([True, True, False, True])
    assert repr(found) == "Evaluation(top-1 75.00 %, top-5 100.00 %, 4 images)"
    assert "<strong>top-1 75.00 %</strong>" in found._repr_html_()
    assert found == Evaluation(4, 3, 4)
