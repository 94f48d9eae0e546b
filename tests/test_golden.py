"""Runs with a fixed seed are equal, bit for bit, to those of the commit that tests/golden.json names."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.golden import RUNS, fingerprint, machine

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))
FAST = [("resnet18_small", "mrecg"), ("resnet18_small", "logarithms")]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(GOLDEN["machine"] != machine(), reason="bits of another processor or torch")
@pytest.mark.parametrize(
    ("network", "case"),
    [run if run in FAST else pytest.param(*run, marks=pytest.mark.slow) for run in RUNS],
)
def test_a_run_is_the_golden_one(network: str, case: str) -> None:
    assert fingerprint(network, case) == GOLDEN["runs"][f"{network}/{case}"]
