"""Batches and rates along an optimization."""

import pytest
import torch

import mrecg
from mrecg.config.optimization import Reconstruction
from mrecg.optimize.schedule import (
    cosine_decay,
    derive_seed,
    group_rates,
    report_interval,
    schedule_at,
    shuffled_batches,
)
from mrecg.quantizers.adaround import Penalty


def settings(**overrides: object) -> Reconstruction:
    given = {f"reconstruct.{key}": value for key, value in overrides.items()}
    return mrecg.preset("w2a4-qdrop", {"reconstruct.batch_size": 8} | given).reconstruct


@pytest.mark.parametrize("batches", ["reshuffled", "fixed"])
def test_batches(batches: str) -> None:
    stream = shuffled_batches(35, settings(batches=batches), seed=0)
    drawn = [next(stream) for _ in range(8)]
    assert all(len(set(batch.tolist())) == 8 for batch in drawn)
    if batches == "fixed":
        assert {tuple(batch.tolist()) for batch in drawn} <= {
            tuple(range(first, first + 8)) for first in range(0, 32, 8)
        }
    else:
        assert len(set(torch.cat(drawn[:4]).tolist())) == 32
        assert len({tuple(batch.tolist()) for batch in drawn}) == 8


def test_a_penalty_follows_the_warm_up_and_rates_decay() -> None:
    chosen = settings(steps=100, penalty=0.3, warm_up=0.25, beta=(20.0, 2.0), weight_scale_rate=0.1)
    before, at_once, last = (schedule_at(chosen, taken) for taken in (24, 25, 100))
    assert before.slope is None
    assert at_once.slope == Penalty(0.3, 20).slope()
    assert last.slope == Penalty(0.3, 2).slope()
    rounding, _, weight_scale = last.rates
    assert rounding == at_once.rates[0] > 0  # which never decays
    assert weight_scale == 0
    assert schedule_at(chosen, 50).rates[2] == pytest.approx(0.05)
    assert (cosine_decay(0), cosine_decay(1)) == (1, 0)


def test_the_authors_counter_is_at_one_in_the_first_step() -> None:
    """Their penalty starts in step 100 of 500, where β is 20, and reaches β = 2 in the last; ours starts in the 101st."""
    chosen = settings(steps=500, penalty=0.3, penalty_at="end")
    assert schedule_at(chosen, 98).slope is None
    assert schedule_at(chosen, 99).slope == Penalty(0.3, 20).slope()
    assert schedule_at(chosen, 499).slope == Penalty(0.3, 2).slope()
    ours = settings(steps=500, penalty=0.3)
    assert schedule_at(ours, 99).slope is None
    assert schedule_at(chosen, 99).rates == schedule_at(ours, 99).rates


@pytest.mark.parametrize("steps", [1, 100, 500, 20_000])
def test_automatic_rates_shrink_with_the_steps(steps: int) -> None:
    """Rate times steps is what a variable can reach; a rate is bounded where there are few steps."""
    rates, more = group_rates(settings(steps=steps)), group_rates(settings(steps=10 * steps))
    assert all(fewer >= longer > 0 for fewer, longer in zip(rates, more, strict=True))
    assert group_rates(settings(steps=steps, activation_rate=0.3)).activation_scale == 0.3
    if steps == 20_000:
        assert rates.rounding == 1e-3  # the paper's


def test_reports_come_twenty_times() -> None:
    assert [report_interval(steps) for steps in (1, 19, 40, 500)] == [1, 1, 2, 25]


def test_seeds_differ_by_purpose() -> None:
    seeds = {derive_seed(*purpose) for purpose in [(1, "tune", 0), (1, "tune", 1), (1, "plan", 0), (2, "tune", 0), (11, "tune"), (1, 1, "tune")]}  # fmt: skip
    assert len(seeds) == 6
    assert derive_seed(1, "tune", 0) == derive_seed(1, "tune", 0)
