"""The demo's last lines say what joining did, whichever way it went."""

import io

import pytest
from rich.console import Console

from mrecg.cli.show.results import joining_verdict
from mrecg.demo import GroupEnd, JoiningEffect


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (0.05, "nearer to float: KL falls by 0.050 ± 0.010"),
        (-0.05, "further from float: KL rises by 0.050 ± 0.010"),
        (0.02, "no difference that these images can show: KL falls by 0.020 ± 0.010"),
        (-0.01, "no difference that these images can show: KL rises by 0.010 ± 0.010"),
    ],
)
def test_the_verdict_follows_the_figures(gain: float, said: str) -> None:
    ends = (GroupEnd(("a", "b"), 0.4, 0.3), GroupEnd(("c", "d"), 0.4, 0.5))
    verdict = joining_verdict(JoiningEffect(gain, 0.01, ends))
    assert said in verdict
    assert "lower at 1 of 2 group ends" in verdict
    page = io.StringIO()
    Console(file=page, width=80).print(verdict)
    assert max(map(len, page.getvalue().splitlines())) <= 80
