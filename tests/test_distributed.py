"""Two processes under `torchrun`: what is equal to a single one bit for bit, and how close the rest is."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import mrecg
from mrecg import distributed
from mrecg.cli import app
from mrecg.errors import DataError, RecipeError

NETWORK = """
import torch
from torch import nn

def block(channels):
    return nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())

def net():
    torch.manual_seed(0)
    return nn.Sequential(block(1), block(8), block(8), nn.Flatten(), nn.Linear(128, 10)).eval()
"""
LEARNED = ["reconstruct.steps=60", "reconstruct.batch_size=32", "reconstruct.batches=fixed"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """With the network, as the working directory; this process computes like one of `torchrun`."""
    (tmp_path / "mine.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)
    sys.modules.pop("mine", None)


def command(processes: int, *arguments: str) -> tuple[str, str]:
    """What `mrecg` writes, in this process or in several under `torchrun`."""
    if processes == 1:
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        return result.stdout, result.stderr
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, f"--nproc-per-node={processes}", "-m", "mrecg.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def quantize(processes: int, preset: str, *settings: str) -> tuple[mrecg.QuantizedModel, str]:
    """The run, and what its processes wrote to stderr."""
    arguments = ["--network", "mine:net", "--data", "demo", "--images", "64", "--preset", preset]
    arguments += [word for setting in settings for word in ("--set", setting)]
    output = f"run-{processes}"
    _, written = command(processes, "quantize", *arguments, "--output", output)
    return mrecg.load(output), written


def test_ranges_and_roundings_to_nearest_are_equal_bit_for_bit(folder: Path) -> None:
    alone, _ = quantize(1, "w4a4-rtn")
    shared, written = quantize(2, "w4a4-rtn")
    assert written.count("4/4 4") == 1  # one process speaks
    assert shared.record.images == 64
    tensors, expected = shared.program.state_dict, alone.program.state_dict
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    losses = [unit.loss for unit in shared.record.units]
    assert losses == pytest.approx([unit.loss for unit in alone.record.units], rel=1e-4)
    evaluate = ("evaluate", "run-1", "--data", "demo", "--json")
    assert json.loads(command(2, *evaluate)[0]) == json.loads(command(1, *evaluate)[0])


def test_learned_losses_agree(folder: Path) -> None:
    """Fixed batches hold the same images: only the order of sums differs, which Adam magnifies where slopes vanish."""
    alone, _ = quantize(1, "w2a4-brecq", *LEARNED)
    shared, _ = quantize(2, "w2a4-brecq", *LEARNED)
    first = [run.record.groups[0].first_loss for run in (shared, alone)]
    assert first[0] == pytest.approx(first[1], rel=1e-5)
    for ours, theirs in zip(shared.record.units, alone.record.units, strict=True):
        assert ours.relative_loss == pytest.approx(theirs.relative_loss, rel=1e-2)


def test_a_plan_is_written_once(folder: Path) -> None:
    """What one process writes is no surprise to the other, which looked for it before."""
    plan = ["plan", "--network", "mine:net", "--data", "demo", "--metric", "capacity"]
    command(2, *plan, "--output", "plan.json")
    assert mrecg.Plan.read("plan.json").groups


def test_a_single_process_needs_no_others() -> None:
    assert (distributed.rank(), distributed.count(), distributed.is_first()) == (0, 1, True)
    images = torch.arange(6.0)
    assert torch.equal(distributed.share_of_images(images), images)
    assert distributed.share_of_batch(7) == 7
    assert list(distributed.share_of_items("abc")) == ["a", "b", "c"]
    assert distributed.total([1.5, 2.0]) == distributed.average([1.5, 2.0]) == [1.5, 2.0]


def test_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "count", lambda: 3)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert distributed.share_of_images(torch.arange(6.0)).tolist() == [1, 4]
    assert list(distributed.share_of_items("abcdefg")) == ["b", "e"]
    assert distributed.share_of_batch(33) == 11
    with pytest.raises(DataError, match="7 images, which 3 processes cannot share evenly; give 6"):
        distributed.share_of_images(torch.arange(7.0))
    with pytest.raises(RecipeError, match="multiple of 3"):
        distributed.share_of_batch(32)


@pytest.mark.parametrize(
    ("cards", "rank", "expected"),
    [(0, "1", "cpu"), (1, None, "cuda:0"), (4, "3", "cuda:3"), (2, "3", "cuda:1")],
)
def test_the_launcher_chooses_the_device(
    cards: int, rank: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert distributed.local_device() == torch.device(expected)
