"""Two processes under `torchrun`: what is equal to a single one bit for bit, and how close the rest is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mrecg
from mrecg import distributed
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


def quantize(
    folder: Path, processes: int, preset: str, *settings: str
) -> tuple[mrecg.QuantizedModel, str]:
    """The run, and what its processes wrote to stderr."""
    (folder / "mine.py").write_text(NETWORK)
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += [f"--nproc-per-node={processes}"]
    arguments = ["--network", "mine:net", "--data", "demo", "--images", "64", "--preset", preset]
    arguments += [word for setting in settings for word in ("--set", setting)]
    output = f"run-{processes}"
    done = subprocess.run(
        [*launcher, "-m", "mrecg.cli", "quantize", *arguments, "--output", output],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return mrecg.load(folder / output), done.stderr


def test_ranges_and_roundings_to_nearest_are_equal_bit_for_bit(tmp_path: Path) -> None:
    alone, _ = quantize(tmp_path, 1, "w4a4-rtn")
    shared, written = quantize(tmp_path, 2, "w4a4-rtn")
    assert written.count("4/4 4") == 1  # one process speaks
    assert shared.record.images == 64
    tensors, expected = shared.program.state_dict, alone.program.state_dict
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    losses = [unit.loss for unit in shared.record.units]
    assert losses == pytest.approx([unit.loss for unit in alone.record.units], rel=1e-4)


def test_learned_losses_agree(tmp_path: Path) -> None:
    """Fixed batches hold the same images: only the order of sums differs, which Adam magnifies where slopes vanish."""
    alone, _ = quantize(tmp_path, 1, "w2a4-brecq", *LEARNED)
    shared, _ = quantize(tmp_path, 2, "w2a4-brecq", *LEARNED)
    first = [run.record.groups[0].first_loss for run in (shared, alone)]
    assert first[0] == pytest.approx(first[1], rel=1e-5)
    for ours, theirs in zip(shared.record.units, alone.record.units, strict=True):
        assert ours.relative_loss == pytest.approx(theirs.relative_loss, rel=1e-2)


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
