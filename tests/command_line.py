"""The command line in the tests' own process: starting one that imports torch takes seconds."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

import mrecg
from mrecg.cli import main
from mrecg.demo import DEMO_NETWORK

WEIGHTS = Path(mrecg.__file__).parent / "demo" / f"{DEMO_NETWORK}.safetensors"
MODEL = ("--network", DEMO_NETWORK, "--weights", str(WEIGHTS), "--data", "demo")
"""The packaged network with its images."""
QUICK = ("--set", "reconstruct.steps=2", "--set", "reconstruct.batch_size=8")


class Finished(NamedTuple):
    """What a process would have left."""

    returncode: int
    stdout: str
    stderr: str


def run(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> Finished:
    """Run `mrecg` from its entry point on, which turns errors into sentences and exit codes."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    code = stopped.value.code
    assert code is None or isinstance(code, int)
    return Finished(code or 0, *capsys.readouterr())


def small_network(folder: Path, channels: int) -> str:
    """Write a network of two layers and return its name; it is exported in a tenth of the packaged one's time."""
    (folder / "small_network.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        f"    return nn.Sequential(nn.Conv2d({channels}, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(4, 10))\n"
    )
    return "small_network:net"


def forget_modules_in(folder: Path) -> None:
    """Forget networks that a test wrote, so that another test's module of the same name is read."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and Path(file).is_relative_to(folder):
            del sys.modules[name]
