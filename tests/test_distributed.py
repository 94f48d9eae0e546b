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
LEARNED = [
    "reconstruct.steps=60",
    "reconstruct.batch_size=32",
    "reconstruct.batches=fixed",
    "network.learn=scales",  # for codes, each process sets images of its own aside
]
SHORT = ["reconstruct.steps=4", "reconstruct.batch_size=32"]


SEVERAL = """
import contextlib, json, sys
from mrecg.cli import main
from mrecg.distributed import rank, session, wait

with session():
    for number, arguments in enumerate(json.loads(sys.argv[1])):
        with open(f"{number}-{rank()}.out", "w") as out, open(f"{number}-{rank()}.err", "w") as err:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    main(arguments)
                except SystemExit as stopped:
                    assert not stopped.code
        wait()  # for what the first one writes
"""
"""Several commands in the same processes: starting them takes longer than the commands."""


KILLED = """
import json, os, signal, sys, threading, time
from pathlib import Path

def kill():
    while not list(Path(sys.argv[2]).glob(".unfinished/tune-0001.safetensors")):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)

if os.environ["RANK"] == "0":  # the one that writes
    threading.Thread(target=kill, daemon=True).start()
from mrecg.cli import main
main(json.loads(sys.argv[1]))
"""
"""A command whose first process is lost as soon as two groups are kept."""


def quantize(processes: int, preset: str, *settings: str) -> tuple[str, ...]:
    """Return the arguments of a run in the folder `{preset}-{processes}`."""
    arguments = ["--network", "mine:net", "--data", "demo", "--images", "64", "--preset", preset]
    arguments += [word for setting in settings for word in ("--set", setting)]
    return ("quantize", *arguments, "--output", f"{preset}-{processes}")


NEAREST = "w4a4-rtn"
BRECQ = "w2a4-brecq"
JOINED = "w2a2-qdrop-mrecg"
CLOSED = "w3a8-qronos"
EVALUATE = ("evaluate", f"{NEAREST}-2", "--data", "demo", "--json")
LOST = f"{BRECQ}-lost"
PLAN = (
    "plan",
    "--network",
    "mine:net",
    "--data",
    "demo",
    "--metric",
    "capacity",
    "--output",
    "plan.json",
)
COMMANDS = [
    quantize(2, NEAREST),
    EVALUATE,
    quantize(2, BRECQ, *LEARNED),
    quantize(2, JOINED, *SHORT),
    quantize(2, CLOSED),
    ("quantize", "--resume", LOST),
    PLAN,
]


def torchrun(folder: Path, *arguments: str, fails: bool = False) -> None:
    """Run a program in two processes, with the network's file at hand."""
    (folder / "mine.py").write_text(NETWORK)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [*launcher, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    assert (done.returncode != 0) == fails, done.stderr


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes executed `COMMANDS`, each process with files of what it wrote."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "several.py").write_text(SEVERAL)
    (folder / "killed.py").write_text(KILLED)
    lost = [*quantize(2, BRECQ, *LEARNED)[:-1], LOST]
    torchrun(folder, "killed.py", json.dumps(lost), LOST, fails=True)
    torchrun(folder, "several.py", json.dumps(COMMANDS))
    return folder


def written(shared: Path, command: tuple[str, ...], stream: str) -> str:
    """Return what the two processes wrote together."""
    return "".join(
        (shared / f"{COMMANDS.index(command)}-{rank}.{stream}").read_text() for rank in range(2)
    )


@pytest.fixture
def folder(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """That folder as the working directory; this process computes like one of `torchrun`."""
    monkeypatch.syspath_prepend(shared)
    monkeypatch.chdir(shared)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield shared
    torch.set_num_threads(threads)
    sys.modules.pop("mine", None)


def alone(*arguments: str) -> str:
    """Execute a command in this process and return its output."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_ranges_and_roundings_to_nearest_are_equal_bit_for_bit(folder: Path) -> None:
    alone(*quantize(1, NEAREST))
    single, shared = mrecg.load(f"{NEAREST}-1"), mrecg.load(f"{NEAREST}-2")
    assert written(folder, COMMANDS[0], "err").count("4/4 4") == 1  # one process speaks
    assert shared.record.images == 64
    tensors, expected = shared.program.state_dict, single.program.state_dict
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    losses = [unit.loss for unit in shared.record.units]
    assert losses == pytest.approx([unit.loss for unit in single.record.units], rel=1e-4)
    assert json.loads(written(folder, EVALUATE, "out")) == json.loads(alone(*EVALUATE))


@pytest.mark.usefixtures("folder")
def test_a_run_whose_first_process_was_killed_goes_on_to_the_same_bits() -> None:
    resumed, whole = mrecg.load(LOST), mrecg.load(f"{BRECQ}-2")
    tensors, expected = resumed.program.state_dict, whole.program.state_dict
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    losses = [[group.last_loss for group in one.record.groups] for one in (resumed, whole)]
    assert losses[0] == losses[1]


@pytest.mark.usefixtures("folder")
def test_joins_are_tried_and_codes_are_learned_together() -> None:
    """Processes that decided differently would wait for each other for ever."""
    record = mrecg.load(f"{JOINED}-2").record
    assert record.plan.joins
    assert record.network is not None
    assert record.network.divergence_before > 0


def test_learned_losses_agree(folder: Path) -> None:
    """Fixed batches hold the same images: only the order of sums differs, which Adam magnifies where slopes vanish."""
    alone(*quantize(1, BRECQ, *LEARNED))
    single, shared = mrecg.load(f"{BRECQ}-1"), mrecg.load(f"{BRECQ}-2")
    first = [run.record.groups[0].first_loss for run in (shared, single)]
    assert first[0] == pytest.approx(first[1], rel=1e-5)
    for ours, theirs in zip(shared.record.units, single.record.units, strict=True):
        assert ours.relative_loss == pytest.approx(theirs.relative_loss, rel=1e-2)


@pytest.mark.usefixtures("folder")
def test_closed_forms_read_the_images_of_all_processes() -> None:
    """Codes may differ where only the order of sums decides."""
    alone(*quantize(1, CLOSED))
    single, shared = mrecg.load(f"{CLOSED}-1").record, mrecg.load(f"{CLOSED}-2").record
    for ours, theirs in zip(shared.units, single.units, strict=True):
        assert ours.relative_loss == pytest.approx(theirs.relative_loss, rel=1e-2)


def test_a_plan_is_written_once(folder: Path) -> None:
    """What one process writes is no surprise to the other, which looked for it before."""
    assert mrecg.Plan.read(folder / "plan.json").groups


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
