"""Two versions of the package in one process: each finds its own modules, and their steps take turns."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mrecg
from benchmarks.performance.__main__ import main
from benchmarks.performance.paired import STEPS, WARM_UP, Version, steps_in_turns
from benchmarks.performance.results import performance_store

PACKAGE = """
import importlib
from types import SimpleNamespace

def preset(name, settings):
    return settings["reconstruct.steps"]

def quantize(model, images, *, recipe, progress):
    progress(SimpleNamespace(memory=1))  # an estimate
    cost = importlib.import_module("mrecg.cost")
    for name in {groups}:
        for step in range(1, recipe + 1):
            cost.spend()
            progress(SimpleNamespace(phase="tune", group=(name,), step=step, finished=False))
        progress(SimpleNamespace(phase="tune", group=(name,), step=recipe, finished=True))
"""
COST = """
import time

ORDER = []

def spend():
    ORDER.append({seconds})
    end = time.process_time() + {seconds}
    while time.process_time() < end:
        pass
"""
MODEL, IMAGES = torch.nn.Identity(), torch.zeros(1)


def checkout(folder: Path, seconds: float, groups: tuple[str, ...] = ("a", "b")) -> Path:
    package = folder / "src" / "mrecg"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(PACKAGE.format(groups=groups))
    (package / "cost.py").write_text(COST.format(seconds=seconds))
    return folder


def take(*versions: Version, steps: int = 3) -> list[tuple[object, object]]:
    first, second = versions
    settings = {"reconstruct.steps": steps}
    return list(steps_in_turns((first, second), MODEL, IMAGES, "w2a4-brecq", settings))


def test_each_version_runs_its_own_modules(tmp_path: Path) -> None:
    slow = Version.of(checkout(tmp_path / "slow", 0.02))
    fast = Version.of(checkout(tmp_path / "fast", 0.005))
    found = take(slow, fast)
    assert [step[:2] for step, _ in found] == [((name,), n) for name in "ab" for n in (1, 2, 3)]
    assert [step[:2] for step, _ in found] == [step[:2] for _, step in found]
    for name in "ab":
        later = [pair for pair in found if pair[0].group == (name,) and pair[0].step > 1]
        for ours, theirs in later:
            assert ours.seconds >= 0.02
            assert 0.005 <= theirs.seconds < ours.seconds
    assert sys.modules["mrecg"] is mrecg
    assert "mrecg.cost" not in sys.modules


def test_steps_take_turns(tmp_path: Path) -> None:
    slow = Version.of(checkout(tmp_path / "slow", 0.002))
    fast = Version.of(checkout(tmp_path / "fast", 0.001))
    order = []
    for version in (slow, fast):
        with version.imported():
            import mrecg.cost

            mrecg.cost.ORDER = order
    take(slow, fast)
    assert order == [0.002, 0.001] * 6


def test_versions_that_do_not_take_the_same_steps_are_refused(tmp_path: Path) -> None:
    one = Version.of(checkout(tmp_path / "one", 0, ("a", "b")))
    other = Version.of(checkout(tmp_path / "other", 0, ("a", "c")))
    with pytest.raises(SystemExit, match="The versions take other steps"):
        take(one, other)


def test_what_a_version_raises_is_raised(tmp_path: Path) -> None:
    broken = checkout(tmp_path / "broken", 0)
    (broken / "src" / "mrecg" / "cost.py").write_text("def spend(): raise ValueError('broken')")
    whole = Version.of(checkout(tmp_path / "whole", 0))
    with pytest.raises(ValueError, match="broken"):
        take(whole, Version.of(broken))
    assert sys.modules["mrecg"] is mrecg


def test_a_folder_without_the_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="There is no src/mrecg in"):
        Version.of(tmp_path)


def test_a_checkout_without_a_commit_is_refused(tmp_path: Path) -> None:
    other = checkout(tmp_path / "other", 0)
    subprocess.run(["git", "init", "-q"], cwd=other, check=True)
    arguments = ["--networks", "resnet18_small@8", "--against", str(other)]
    with pytest.raises(SystemExit, match="has no commit that a result could name"):
        main(["--results", str(tmp_path), "step", *arguments])


def test_the_step_is_compared_with_that_of_a_checkout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("conv1", *(f"layer{n}.{m}" for n in (1, 2, 3, 4) for m in (0, 1)), "fc")
    other = checkout(tmp_path / "other", 0.002, names)
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], cwd=other, check=True)
    arguments = ["--networks", "resnet18_small@8", "--batch", "4", "--methods", "brecq"]
    main(["--results", str(tmp_path), "step", *arguments, "--against", str(other)])
    (result,) = performance_store("paired", tmp_path).read()
    assert [unit["unit"] for unit in result["units"]] == list(names)
    assert all(unit["ms"] > 0 and unit["against_ms"] >= 2 for unit in result["units"])
    assert 0 < WARM_UP < STEPS
    assert result["against"] != result["commit"]
    assert f"geometric mean: {result['ratio']:.3f}" in capsys.readouterr().out
    main(["--results", str(tmp_path), "render", "--docs", str(tmp_path)])
    page = (tmp_path / "performance.md").read_text()
    assert f"| resnet18_small | 8² | brecq | {result['against']} |" in page
