"""Two processes under `torchrun`: what is equal to a single one bit for bit, and how close the rest is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mrecg
from mrecg import distributed
from mrecg.demo import DEMO_NETWORK
from mrecg.errors import DataError, RecipeError

WEIGHTS = Path(mrecg.__file__).parent / "demo" / f"{DEMO_NETWORK}.safetensors"
COMMON = ["--network", DEMO_NETWORK, "--weights", str(WEIGHTS), "--data", "demo", "--images", "64"]
LEARNED = ["reconstruct.steps=40", "reconstruct.batch_size=32", "reconstruct.batches=fixed"]


def quantize(
    processes: int, output: Path, preset: str, *settings: str
) -> tuple[mrecg.QuantizedModel, subprocess.CompletedProcess[str]]:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += [f"--nproc-per-node={processes}"]
    overrides = [word for setting in settings for word in ("--set", setting)]
    command = [*launcher, "-m", "mrecg.cli", "quantize", *COMMON, "--preset", preset, *overrides]
    done = subprocess.run(
        [*command, "--output", str(output)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return mrecg.load(output), done


def test_ranges_and_roundings_to_nearest_are_equal_bit_for_bit(tmp_path: Path) -> None:
    alone, _ = quantize(1, tmp_path / "alone", "w4a4-rtn")
    shared, done = quantize(2, tmp_path / "shared", "w4a4-rtn")
    assert done.stderr.count("20/20 classifier") == 1  # one process speaks
    assert shared.record.images == 64
    tensors, expected = shared.program.state_dict, alone.program.state_dict
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    losses = [unit.loss for unit in shared.record.units]
    assert losses == pytest.approx([unit.loss for unit in alone.record.units], rel=1e-4)


def test_learned_losses_agree(tmp_path: Path) -> None:
    """Fixed batches hold the same images: only the order of sums differs, which may turn an undecided rounding."""
    alone, _ = quantize(1, tmp_path / "alone", "w2a4-brecq", *LEARNED)
    shared, _ = quantize(2, tmp_path / "shared", "w2a4-brecq", *LEARNED)
    assert shared.record.groups[0].first_loss == pytest.approx(
        alone.record.groups[0].first_loss, rel=1e-4
    )
    for ours, theirs in zip(shared.record.units, alone.record.units, strict=True):
        assert ours.relative_loss == pytest.approx(theirs.relative_loss, rel=0.1)


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
