"""Seconds of two processors are never set beside each other."""

from benchmarks.performance.render import _ablations, _lead
from benchmarks.store import Result


def step(ratio: float, processor: str | None, without: str | None = None) -> Result:
    """Return a result of a step as it is stored; older ones name no processor."""
    cell = {"network": "n", "side": 28, "method": "qdrop", "without": without, "ratio": ratio}
    return cell if processor is None else cell | {"processor": processor}


def test_a_mean_is_of_the_processor_with_the_most_results() -> None:
    steps = [step(1.0, None), step(4.0, None) | {"side": 224}, step(9.0, "new")]
    assert "2.00 times (qdrop)" in _lead(steps)


def test_what_is_taken_away_is_compared_on_one_processor() -> None:
    steps = [step(1.0, None), step(9.0, "new"), step(2.0, None, "x"), step(3.0, "other", "x")]
    *_, row = _ablations(steps)
    assert row == "| n | qdrop | x | 2.00 | 1.00 |"
    assert sum("| x |" in line for line in _ablations(steps)) == 1
