"""Where calibration values lie must not decide a result, and nothing may stay behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mrecg
import toys
from mrecg.cache import storage as room
from mrecg.cache.storage import Storage
from mrecg.errors import StorageError
from mrecg.pipeline import Estimate, foresee

CPU = torch.device("cpu")
SHAPES = [(3, 5, 4), (1, 6, 6), (7, 8), (10,)]


def values(*shape: int) -> Tensor:
    return torch.randn(9, *shape, generator=torch.Generator().manual_seed(0)) * 1000


@pytest.mark.parametrize("limit", [None, 0], ids=["memory", "file"])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_stored_comes_back(
    shape: tuple[int, ...],
    half: bool,
    limit: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room.tempfile, "tempdir", str(tmp_path))
    stored, x = Storage(CPU, limit, half).allocate(9, shape), values(*shape)
    for first in (0, 4, 8):
        stored.write(first, x[first : first + 4])
    expected = x.half().float() if half else x
    assert torch.equal(stored.portion(0, 9), expected)
    chosen = torch.tensor([5, 0, 5])
    batch = stored.batch(chosen)
    assert torch.equal(batch, expected[chosen])
    batch.zero_()  # the caller's own
    assert torch.equal(stored.portion(5, 6), expected[5:6])
    if len(shape) == 3:
        assert batch.stride()[1] == 1
    assert len(stored) == 9
    assert not list(tmp_path.iterdir())  # the file has no name


def test_half_precision_saturates() -> None:
    stored = Storage(CPU, half=True).allocate(1, (2,))
    stored.write(0, torch.tensor([[1e9, -1e9]]))
    assert torch.equal(stored.portion(0, 1), torch.tensor([[65504.0, -65504.0]]))


def test_the_budget_is_filled_and_given_back() -> None:
    storage = Storage(CPU, limit=1000)
    first, second = storage.allocate(10, (20,)), storage.allocate(10, (10,))
    assert storage.held == {"device": 0, "host": 800, "file": 400}
    storage.release(first)
    third = storage.allocate(5, (10,))
    assert storage.held == {"device": 0, "host": 200, "file": 400}
    for stored in (second, third, third):
        storage.release(stored)
    assert not any(storage.held.values())
    assert storage.most == {"device": 0, "host": 800, "file": 400}


@pytest.mark.parametrize(
    ("free", "limit", "expected"), [(1 << 20, 0, "device"), (1500, 900, "host"), (1500, 0, "file")]
)
def test_an_accelerator_comes_first(
    free: int, limit: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    assert Storage(torch.device("cuda", 0), limit)._place(800) == expected


def test_a_full_disk_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room.tempfile, "TemporaryFile", full)
    with pytest.raises(StorageError, match="No space left on device; set TMPDIR"):
        Storage(CPU, 0).allocate(4, (4,))


def test_files_give_the_same_bits() -> None:
    recipe = mrecg.preset("w2a4-qdrop-mrecg", {"reconstruct.steps": 8, "reconstruct.batch_size": 8})
    model, x, announced = toys.make("residual"), toys.images(32), list[Estimate]()
    results = [
        mrecg.quantize(model, x, recipe=recipe, memory=memory, announce=announced.append)
        for memory in (None, 20_000)
    ]
    assert torch.equal(results[0].model(x), results[1].model(x))
    assert announced[0].files == 0
    assert announced[1].files == announced[0].values - 20_000
    half = mrecg.quantize(model, x, recipe=recipe.override({"reconstruct.cache": "float16"}))
    assert not torch.equal(half.model(x), results[0].model(x))
    assert half.record.units[0].loss == pytest.approx(results[0].record.units[0].loss, rel=0.05)


def test_the_estimate_counts_every_value_that_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Storage] = []
    original = Storage.__init__

    def remember(self: Storage, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        seen.append(self)

    monkeypatch.setattr(Storage, "__init__", remember)
    for toy in ("residual", "dense", "two-outputs"):
        layers = [m for m in toys.make(toy).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        weights = 4 * 3 * sum(layer.weight.numel() for layer in layers)
        announced: list[Estimate] = []
        recipe = mrecg.preset("w4a4-brecq", {"reconstruct.steps": 2, "reconstruct.batch_size": 8})
        mrecg.quantize(toys.make(toy), toys.images(16), recipe=recipe, announce=announced.append)
        assert announced[0].values == seen[-1].most["host"]
        assert announced[0].memory == announced[0].values + announced[0].working + weights
        assert not seen[-1].held["device"]


def test_the_estimate_of_time_knows_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every unit: what the plan's run has taken, single units need not take again."""
    from mrecg.pipeline import foresee
    from mrecg.planning import estimate

    monkeypatch.setattr(estimate, "_forward_seconds", lambda assembly, images: seconds)
    model, x = toys.make("residual"), toys.images(32)
    settings = {"reconstruct.steps": 40, "reconstruct.batch_size": 8, "plan.count": 1}
    single = mrecg.preset("w4a4-brecq", settings | {"reconstruct.network_share": 0.5})
    names = [unit.name for unit in mrecg.quantize(model, x, recipe=single).record.units]
    seconds = {name: 2.0**index for index, name in enumerate(names)}
    total, step, passes = sum(seconds.values()), 8 * 4.0, 3 * 32
    found = foresee(model, x[:2], 32, single)
    assert found.seconds == total * (passes + step * (40 + 20))
    for join in ("capacity", "loss"):
        joined = single.override({"plan.join": join, "reconstruct.network_share": 0.0})
        (pair,) = mrecg.pipeline.make_model_plan(
            model, x, recipe=joined.override({"plan.join": "capacity"})
        ).joined
        alone = total - sum(seconds[name] for name in pair)
        expected = total * (passes + step * 40)
        if join == "loss":  # a run of a quarter of the steps, which those that stay alone continue
            expected += total * (passes + step * 10) - alone * step * 10
        assert foresee(model, x[:2], 32, joined).seconds == expected


@pytest.mark.parametrize("size", ["4 parsecs", "-1GiB", "GiB"])
def test_a_budget_that_cannot_be_read(size: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mrecg.cli", "quantize", "--network", "resnet18_small"]
    command += [f"--memory={size}", "--output", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 1
    assert "cannot be read, expected a size such as 4GiB" in done.stderr


def test_budgets() -> None:
    from mrecg.cli.inputs import bytes_of

    assert bytes_of(None) is None
    assert bytes_of("4GiB") == 4 * 2**30
    assert bytes_of("1.5 MB") == 1_500_000
    assert bytes_of("100") == 100


def test_a_file_that_somebody_else_cuts_is_no_endless_loop() -> None:
    stored = Storage(CPU, 0).allocate(9, (3,))
    stored.write(0, values(3))
    stored._file.truncate(20)  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="shorter than what was written"):
        stored.portion(0, 9)


def test_the_estimate_counts_the_masks_of_qdrop() -> None:
    model, images = toys.make("residual"), toys.images(8)
    groups_only = {"reconstruct.network_share": 0}
    recipes = [mrecg.preset(f"w4a4-{name}", groups_only) for name in ("brecq", "qdrop")]
    brecq, qdrop = (foresee(model, images, 64, recipe).working for recipe in recipes)
    assert qdrop - brecq == 4 << 20
