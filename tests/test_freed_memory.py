"""What tensors free stays with the process during a run, and goes back to the system at its end."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

import mrecg
import toys
from mrecg import freed_memory
from mrecg.freed_memory import freed_memory_kept

HAS_GLIBC = freed_memory._glibc() is not None
CHILD = """
import resource
import torch
from mrecg.freed_memory import freed_memory_kept

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(10, 1 << 20)  # 40 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() >> 20

torch.set_num_threads(1)
faults(1)
outside, before = faults(5), resident()
with freed_memory_kept():
    faults(30)  # A small block above a free one makes the heap grow again: up to four times here.
    print(faults(5) < outside / 20, resident() - before > 30)
print(resident() - before < 10, faults(5) > outside / 20)
"""


@pytest.mark.skipif(not HAS_GLIBC, reason="the allocator is not glibc's")
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({}, ["True", "True", "True", "True"]),
        # Of the user, who has the last word.
        ({"MALLOC_MMAP_THRESHOLD_": "1048576"}, ["False", "False", "True", "True"]),
    ],
)
def test_pages_are_not_cleared_again(setting: dict[str, str], said: list[str]) -> None:
    """A block that is freed and needed again costs no page faults in the body, and some outside of it."""
    without = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    without.pop("GLIBC_TUNABLES", None)
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        env=without | setting,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == said


class Allocator:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, ...]] = []

    def mallopt(self, *parameter: int) -> None:
        self.told.append(parameter)

    def malloc_trim(self, pad: int) -> None:
        self.told.append((pad,))


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> Allocator:
    for name in [one for one in os.environ if one.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    found = Allocator()
    monkeypatch.setattr(freed_memory, "_glibc", lambda: found)
    return found


def ends(allocator: Allocator) -> list[tuple[int, ...]]:
    """Return what the allocator was told last."""
    return allocator.told[-4:]


QUICK = {"reconstruct.steps": 2, "reconstruct.batch_size": 8, "plan.join": "loss"}
RETURNED = [*freed_memory._RETURNED.items(), (0,)]


def test_an_error_ends_it_too(allocator: Allocator) -> None:
    @freed_memory_kept()
    def fail() -> None:
        assert allocator.told == list(freed_memory._KEPT.items())
        raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert ends(allocator) == RETURNED


@pytest.mark.parametrize(
    "what", ["quantize", "plan", "estimate", "evaluate", "sensitivity", "fidelity"]
)
def test_whatever_runs_the_network_often_keeps_memory(what: str, allocator: Allocator) -> None:
    model, images = toys.make("residual"), toys.images(16)
    recipe = mrecg.preset("w4a4-qdrop-mrecg", QUICK)
    quantized = mrecg.quantize(model, images, recipe=recipe)
    allocator.told.clear()
    calls: dict[str, Any] = {
        "quantize": lambda: mrecg.quantize(model, images, recipe=recipe),
        "plan": lambda: mrecg.prepare(model, images, recipe=recipe).plan(),
        "estimate": lambda: mrecg.prepare(model, images, recipe=recipe).estimate(),
        "evaluate": lambda: mrecg.evaluate(model, [(images, torch.zeros(16, dtype=torch.long))]),
        "sensitivity": lambda: mrecg.sensitivity(model, images, recipe, weight_bits=(4,)),
        "fidelity": lambda: mrecg.fidelity(model, quantized, images),
    }
    calls[what]()
    assert allocator.told[:2] == list(freed_memory._KEPT.items())
    assert ends(allocator) == RETURNED
