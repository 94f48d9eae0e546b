"""The packaged demo shows what reconstruction is for."""

import pytest

from mrecg.demo import joining_effect, run_demo


@pytest.mark.slow
def test_the_demo_shows_what_each_stage_is_worth() -> None:
    """At its defaults, by more than twice the standard error."""
    rows = run_demo("w2a2", 100, 1005, lambda name, event: None)
    top1 = {row.name: row.evaluation.top1 for row in rows}
    assert top1["round to nearest"] < 30
    assert top1["qdrop blocks"] > 70
    distances = [float(row.divergence.mean()) for row in rows[1:]]
    assert distances == sorted(distances, reverse=True)
    effect = joining_effect(rows)
    assert effect.gain > 2 * effect.standard_error > 0
    assert effect.ends
    assert all(end.joined < end.alone for end in effect.ends)
