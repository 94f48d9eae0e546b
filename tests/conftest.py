"""Shapes in annotations are checked while the tests run, in the rooms where tensors have shapes."""

import functools
import gc
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

# A traced network is tens of thousands of objects, and torch's modules hundreds of thousands: at the default of 700 new
# objects, the garbage collector takes a sixth of the tests' time.
gc.set_threshold(20_000, 10, 10)

# The hook compiles whatever its modules import for the first time; torchao's sources warn when they are compiled.
importlib.import_module("mrecg.graph.insert")
_SHAPED = ("cache", "data", "optimize", "paper", "planning", "preparation", "quantizers")
_WHOLE_RUNS = frozenset(
    {
        *(f"optimize/test_{name}.py" for name in ("answers", "cuda_graph", "network", "shortage")),
        *("paper/test_reproduction.py", "preparation/test_models.py"),
    }
)
# torch.onnx parses the sources of its 500 translations anew for each file, which takes longer than a toy's own translation.
_TRANSLATIONS = importlib.import_module("torch.onnx._internal._lazy_import").onnxscript_apis
_TRANSLATIONS.get_torchlib_ops = functools.cache(
    lambda: type(_TRANSLATIONS).__getattr__(_TRANSLATIONS, "get_torchlib_ops")()
)
install_import_hook(
    [f"mrecg.{room}" if room != "paper" else "mrecg.paper.networks" for room in _SHAPED],
    "typechecker.check",
)


@pytest.fixture(scope="module")
def thin_resnet18() -> Iterator[None]:
    """Replace ResNet-18 by one with an eighth of its channels: a table's cells are about files, and eleven million weights take minutes."""
    from mrecg.paper.networks.registry import NETWORKS, Network
    from mrecg.paper.networks.resnet import BasicBlock, ResNet

    thin = functools.partial(ResNet, BasicBlock, (2, 2, 2, 2), 8, 2, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "resnet18", Network(thin))
        yield


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


@pytest.fixture(autouse=True)
def _shape_checks(request: pytest.FixtureRequest) -> None:
    """Check shapes in the tests of the rooms that have them, but in whole runs, which take a quarter longer and repeat the same shapes."""
    path = request.path.relative_to(Path(__file__).parent)
    is_checked = path.parts[0] in _SHAPED and str(path) not in _WHOLE_RUNS
    config.update("jaxtyping_disable", not is_checked)


@pytest.fixture
def unchecked_shapes(_shape_checks: None) -> None:
    """Leave shapes unchecked in a run of hundreds of steps."""
    config.update("jaxtyping_disable", True)


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
