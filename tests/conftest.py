"""Shapes in annotations are checked while the tests run, in the rooms where tensors have shapes."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from hypothesis import Phase, settings
from jaxtyping import config, install_import_hook

from benchmarks.architectures.torchvision_import import import_torchvision

# The same examples in every run, and no database file. Without shrinking, which takes minutes for a whole recipe.
settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile("repeatable")

# The hook compiles whatever its modules import for the first time; torchao's sources warn when they are compiled.
importlib.import_module("mrecg.graph.insert")
install_import_hook(
    [
        "mrecg.cache",
        "mrecg.data",
        "mrecg.optimize",
        "mrecg.paper.networks",
        "mrecg.planning",
        "mrecg.preparation",
        "mrecg.quantizers",
    ],
    "typechecker.check",
)


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    """torchvision as an oracle, where it is installed."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    return import_torchvision()


@pytest.fixture(scope="session")
def transforms(torchvision: ModuleType) -> ModuleType:
    """torchvision's transforms."""
    return importlib.import_module("torchvision.transforms")


@pytest.fixture(scope="session")
def timm(torchvision: ModuleType) -> ModuleType:
    """timm as an oracle, where it is installed; it imports torchvision."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    return importlib.import_module("timm")


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """Leave shapes unchecked: a run of hundreds of steps takes twice as long with the checks, and repeats the same shapes."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture
def mrecg_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., NamedTuple]]:
    """The command line in this process; its working directory is the test's folder."""
    command_line = importlib.import_module("command_line")  # not before the hook is installed
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield lambda *arguments: command_line.run(arguments, capsys)
    command_line.forget_modules_in(tmp_path)
