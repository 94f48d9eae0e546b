"""Shapes in annotations are checked while the tests run, in the rooms where tensors have shapes."""

import importlib
import importlib.util
from types import ModuleType

import pytest
from jaxtyping import install_import_hook

from benchmarks.architectures.torchvision_import import import_torchvision

# The hook compiles whatever its modules import for the first time; torchao's sources warn when they are compiled.
importlib.import_module("mrecg.graph.insert")
install_import_hook(
    [
        "mrecg.cache",
        "mrecg.data",
        "mrecg.optimize",
        "mrecg.paper.networks",
        "mrecg.planning",
        "mrecg.prepare",
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
