"""An interrupted command says how to go on, and goes on to the same bits."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import mrecg
from command_line import MODEL, Finished
from mrecg.cli.jobs import QuantizeJob
from mrecg.cli.resumption import note_command
from mrecg.runs.places import UNFINISHED

NETWORK = """\
import torch
from torch import nn

def net():
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 4, 3, 2), nn.ReLU()]
    for _ in range(6):
        layers += [nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
"""
OPTIONS = [
    *("--network", "deep_network:net", "--data", "demo", "--images", "32", "--preset", "w2a4-brecq"),
    *("--evaluation-images", "0", "--set", "reconstruct.batch_size=8", "--set", "reconstruct.early_stop=false"),
    *("--steps", "100"),
]  # fmt: skip


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    (folder / "deep_network.py").write_text(NETWORK, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "mrecg", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore interruptions, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture
def command(
    mrecg_command: Callable[..., Finished], tmp_path: Path
) -> Iterator[Callable[..., Finished]]:
    """The command line in another process than the one that ended: this one, with as many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield mrecg_command
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole() -> dict[str, torch.Tensor]:
    """The tensors of the run that nothing interrupts, once one of the tests has made it."""
    return {}


@pytest.mark.skipif(os.name != "posix", reason="the signals are POSIX ones")
@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL],
)
def test_a_command_that_a_signal_ends_is_resumed(
    number: signal.Signals,
    tmp_path: Path,
    command: Callable[..., Finished],
    whole: dict[str, torch.Tensor],
) -> None:
    with start(tmp_path, "quantize", *OPTIONS, "--output", "run") as process:
        place = tmp_path / "run" / UNFINISHED
        while process.poll() is None and len(list(place.glob("tune-*"))) < 3:
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate()
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {UNFINISHED}
    assert not [name for name in tmp_path.iterdir() if name.name.startswith(".mrecg")]
    how = ["quantize", "--resume", "run"]
    if number != signal.SIGKILL:
        assert process.returncode == 130
        last = errors.strip().splitlines()[-1]
        assert last.endswith("go on with mrecg quantize --resume run")
        how = shlex.split(last.partition("go on with ")[2])[1:]
    finished = {path.name for path in place.glob("tune-*")}
    assert len(finished) >= 3
    done = command(*how)
    assert done.returncode == 0, done.stderr
    assert "Going on with: mrecg quantize --network deep_network:net" in done.stderr
    resumed = mrecg.load(tmp_path / "run")
    if not whole:
        done = command("quantize", *OPTIONS, "--output", "whole")
        assert done.returncode == 0, done.stderr
        whole |= mrecg.load(tmp_path / "whole").program.state_dict
    for name, tensor in whole.items():
        assert torch.equal(resumed.program.state_dict[name], tensor)
    assert resumed.record.command[1:] == ("quantize", *OPTIONS, "--output", "run")


def test_a_run_that_was_moved_goes_on_where_it_is(
    mrecg_command: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []

    def interrupted(job: QuantizeJob, _: object) -> None:
        folders.append(job.place.folder)
        note_command(job.place, job.command)
        job.place.note("inputs.json", b"{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(QuantizeJob, "run", interrupted)
    command = ("quantize", *MODEL, "--output", "run")
    assert mrecg_command(*command).returncode == 130
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    (tmp_path / "run").rename(moved)
    monkeypatch.chdir(moved.parent)
    for _ in range(2):
        again = mrecg_command("quantize", "--resume", "moved")
        assert again.returncode == 130
        assert f"Going on with: mrecg {shlex.join(command)}\n" in again.stderr
        assert again.stderr.endswith(f"go on with mrecg quantize --resume {moved}\n")
    assert folders == [Path("run"), moved, moved]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "nowhere"], "The folder nowhere holds no unfinished run"),
        (["--resume", "python"], "was not started by a command; go on in Python"),
        (["--network", "resnet18_small", "--output", "python"], "holds an unfinished run; go on"),
    ],
)
def test_mistakes(
    arguments: list[str],
    message: str,
    mrecg_command: Callable[..., Finished],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "python" / UNFINISHED).mkdir(parents=True)
    (tmp_path / "python" / UNFINISHED / "inputs.json").write_text("{}")
    done = mrecg_command("quantize", *arguments)
    assert done.returncode == 1
    assert re.fullmatch(rf"error: .*{re.escape(message)}.*\n", done.stderr)
