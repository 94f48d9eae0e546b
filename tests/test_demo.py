"""The packaged demo shows what reconstruction is for."""

import pytest

from mrecg.demo import run_demo


@pytest.mark.slow
def test_the_demo_keeps_what_rounding_to_nearest_loses() -> None:
    rows = run_demo("w2a4", 200, 1005, lambda name, event: None)
    top1 = {row.name: row.evaluation.top1 for row in rows}
    assert top1["round to nearest"] < 30
    assert top1["qdrop blocks"] > 85
    assert top1["qdrop + mrecg"] > 85
