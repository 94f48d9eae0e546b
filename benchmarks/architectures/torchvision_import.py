"""Import torchvision next to a build of torch that is not its own.

Its classifiers, and timm, need none of its compiled operators.
"""

import importlib
import warnings
from types import ModuleType

import torch

_declared: list[torch.library.Library] = []
"""Operators vanish with their library."""


def import_torchvision() -> ModuleType:
    """Import torchvision; where its compiled part does not load, declare the two operators that its sources register."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("torchvision")
        except RuntimeError:
            library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou) -> Tensor")
            _declared.append(library)
            return importlib.import_module("torchvision")
