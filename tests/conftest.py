"""Shapes in annotations are checked while the tests run, in the rooms where tensors have shapes."""

import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from jaxtyping import install_import_hook

# The hook compiles whatever its modules import for the first time; torchao's sources warn when they are compiled.
importlib.import_module("mrecg.graph.placement")
install_import_hook(
    ["mrecg.calibration", "mrecg.data", "mrecg.quantization", "mrecg.reconstruction", "mrecg.zoo"],
    "typechecker.check",
)


@pytest.fixture(scope="session")
def torchvision() -> Iterator[ModuleType]:
    """torchvision as an oracle, where it is installed; its networks need none of its compiled operators.

    Beside a CPU build of torch, PyPI's build only imports when somebody declares two of them.
    """
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield importlib.import_module("torchvision")
        except RuntimeError:
            declared = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                declared.define(f"{name}(Tensor dets, Tensor scores, float iou) -> Tensor")
            yield importlib.import_module("torchvision")


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
