"""Shapes in annotations are checked while the tests run, in the rooms where tensors have shapes."""

import warnings
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook(
    ["mrecg.calibration", "mrecg.data", "mrecg.quantization", "mrecg.reconstruction", "mrecg.zoo"],
    "typechecker.check",
)


@pytest.fixture(scope="session")
def transforms() -> ModuleType:
    """torchvision's transforms, which are Python; a build that does not fit torch lacks two operators on import."""
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return import_module("torchvision.transforms")
        except RuntimeError:
            library = torch.library.Library("torchvision", "FRAGMENT")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou) -> Tensor")
            return import_module("torchvision.transforms")
