"""The benchmarks of time, memory and growth in short."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import mrecg.paper.networks
from benchmarks.performance import step, threads
from benchmarks.performance.__main__ import main
from benchmarks.performance.memory import peak_resident
from benchmarks.performance.results import performance_store
from benchmarks.performance.scaling import image_forwards
from benchmarks.store import Result

SMALL = ("--network", "resnet18_small", "--side", "28", "--images", "32")


def measure(results: Path, kind: str, *arguments: str) -> list[Result]:
    main(["--results", str(results), kind, *arguments])
    return performance_store(kind, results).read()


def test_the_step_is_compared_with_the_float_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a float step of many times the work makes the ratio many times smaller."""
    arguments = ["--networks", "resnet18_small@8", "--batch", "4", "--methods", "brecq"]
    (result,) = measure(tmp_path, "step", *arguments)
    assert result["without"] is None
    names = ["conv1", *(f"layer{n}.{m}" for n in (1, 2, 3, 4) for m in (0, 1)), "fc"]
    assert [unit["unit"] for unit in result["units"]] == names
    once = step.FloatStep.__call__
    monkeypatch.setattr(step.FloatStep, "__call__", lambda self: [once(self) for _ in range(10)])
    (slower,) = measure(tmp_path, "step", *arguments)
    assert slower["ratio"] < result["ratio"] / 4


def test_a_float_step_is_a_forward_and_a_backward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In operations: forward, gradients of weights and of inputs, of which the images need none."""
    counted: list[int] = []
    once = step.FloatStep.__call__

    def count(self: step.FloatStep) -> None:
        with FlopCounterMode(display=False) as counter:
            once(self)
        counted.append(counter.get_total_flops())

    monkeypatch.setattr(step.FloatStep, "__call__", count)
    arguments = ["--networks", "resnet18_small@8", "--batch", "4", "--methods", "brecq"]
    measure(tmp_path, "step", *arguments)
    with FlopCounterMode(display=False) as counter:
        mrecg.paper.networks.build("resnet18_small").eval()(torch.randn(4, 1, 8, 8))
    whole = sum(counted) / step.STEPS / counter.get_total_flops()
    assert 2.9 < whole < 3


def test_phases_add_up_to_the_run(tmp_path: Path) -> None:
    arguments = ["--networks", "resnet18_small", "--methods", "qdrop", "--steps", "2"]
    (result,) = measure(tmp_path, "pipeline", *arguments, "--images", "32")
    seconds = result["seconds"]
    assert {"ranges", "optimization", "float pass", "quantized passes", "evaluation"} <= set(
        seconds
    )
    assert min(seconds.values()) > 0
    groups = [one["seconds"] for one in result["groups"]]
    assert 0 < min(groups) <= sum(groups) <= result["taken"]["reconstruction"]
    main(["--results", str(tmp_path), "render", "--docs", str(tmp_path)])
    page = (tmp_path / "performance.md").read_text()
    assert "| resnet18_small | w2a4-qdrop | 2 steps; 32 images |" in page


def test_a_run_on_a_device_is_compared_with_its_peak(tmp_path: Path) -> None:
    """On the CPU; without a GPU there is a sentence."""
    arguments = [*SMALL, "--steps", "2"]
    (result,) = measure(tmp_path, "gpu", "--device", "cpu", *arguments)
    with FlopCounterMode(display=False) as counter:
        mrecg.paper.networks.build("resnet18_small").eval()(torch.randn(32, 1, 28, 28))
    # Forward, gradients of inputs and of weights: thrice, but that the images need no gradient.
    assert 2.9 < result["operations_per_step"] / counter.get_total_flops() < 3
    assert 0 < result["operations_per_second"] < result["peak_operations_per_second"]
    main(["--results", str(tmp_path), "render", "--docs", str(tmp_path)])
    row = "| cpu | resnet18_small, 28², 32 images | w2a4-qdrop, 2 steps | float32 |"
    assert row in (tmp_path / "performance.md").read_text()
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="There is no CUDA device here;"):
            measure(tmp_path, "gpu", *arguments)


def test_the_peak_is_what_the_process_holds_at_most() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    before, held = peak_resident(), pages * 4096
    more = 64 * 2**20
    block = np.ones(before - held + more, np.uint8)
    after = peak_resident()
    assert before + more / 2 < after < before + 2 * more
    del block
    assert peak_resident() >= after


def test_a_budget_moves_values_into_files(tmp_path: Path) -> None:
    (narrow,) = measure(tmp_path / "narrow", "memory", *SMALL, "--memory", "1MiB")
    (wide,) = measure(tmp_path / "wide", "memory", *SMALL, "--memory", "1GiB")
    assert narrow["estimate_files_gib"] > 0 == wide["estimate_files_gib"]
    assert narrow["estimate_memory_gib"] < wide["estimate_memory_gib"]
    for result in (narrow, wide):
        assert result["before_gib"] <= result["peak_gib"] >= result["network_gib"] > 0.1


def test_memory_is_kept_or_returned_in_processes_of_their_own(tmp_path: Path) -> None:
    arguments = ["--networks", "resnet18_small", "--images", "32", "--steps", "2", "--turns", "1"]
    main(["--results", str(tmp_path), "kept-memory", *arguments])
    (result,) = performance_store("kept_memory", tmp_path).read()
    for name in ("kept", "returned"):
        assert result[name]["seconds"] > 0
        assert result[name]["peak_gib"] > 0.1


def test_work_grows_linearly_with_units_and_images() -> None:
    """Per unit, but for the eighth that is set aside: once in float, twice quantized, a third time where it was rolled
    back, and the steps. Then as a whole: for the power in float, the eighth in eight views before and after in both networks,
    and in both networks as many steps. Before all that, the float network's numbers are looked at, a few images first."""
    steps, batch = 4, 16
    for units, images in [(2, 32), (4, 32), (8, 32), (4, 64), (4, 128)]:
        found = image_forwards(units, images, steps, batch)
        aside = images // 8
        least = units * (7 * images // 2 + 4 * 8 * aside + 3 * steps * batch)
        looked_at = units * (images + 2 * 8)
        assert least + units * images <= found <= least + looked_at + units * (images - aside)


def test_growth_is_stored_cell_by_cell(tmp_path: Path) -> None:
    found = measure(tmp_path, "scaling", "--units", "2", "--images", "16", "32")
    assert [(cell["units"], cell["images"]) for cell in found] == [(2, 16), (2, 32)]
    assert found[0]["image_forwards"] < found[1]["image_forwards"]


def test_seconds_of_threads_are_of_parts_and_of_the_whole() -> None:
    """In this process: what two threads gain is measured where nothing else runs."""
    seconds = threads.seconds_of_network("resnet18_small", 8, 16, 1)
    assert list(seconds) == ["groups", "network as a whole", "whole run", "training in float"]
    assert min(seconds.values()) > 0
    assert seconds["groups"] + seconds["network as a whole"] < seconds["whole run"]
    place = {"work": "resnet18_small", "side": 8, "images": 16, "steps": 1}
    parts = {part: {"1": one, "2": one / 2} for part, one in seconds.items()}
    rows = threads.threads_section([{**place, "seconds": parts}])[3:-1]
    assert len(rows) == len(parts)
    assert all(row.endswith("| **2.00** |") for row in rows)


def test_wall_seconds_of_a_busy_machine_are_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "MOST_OF_OTHERS", -100.0)
    with pytest.raises(SystemExit, match="Other processes took"):
        measure(tmp_path, "threads", "--networks")
    assert not (tmp_path / "threads.jsonl").exists()
