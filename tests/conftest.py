"""Shapes in annotations are checked while the tests run, in the rooms where tensors have shapes."""

import importlib
from types import ModuleType

import pytest
from jaxtyping import install_import_hook

install_import_hook(
    ["mrecg.calibration", "mrecg.data", "mrecg.quantization", "mrecg.reconstruction", "mrecg.zoo"],
    "typechecker.check",
)


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    """torchvision, as an oracle; its definitions of networks need none of its compiled operators.

    PyPI's build does not import beside a CPU build of torch unless somebody declares two of them.
    """
    pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    return importlib.import_module("torchvision")
