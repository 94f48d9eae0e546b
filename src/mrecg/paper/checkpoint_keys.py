"""How other projects name the tensors of the zoo's networks: their name → ours."""

import re
from collections.abc import Callable

from mrecg.paper.networks.efficientnet_lite import STAGES

__all__ = ["LAYOUTS"]


def _as_it_is(key: str) -> str:
    """The names of the definitions here."""
    return key


def _flat_mobilenetv2(key: str) -> str:
    """d-li14's names, and those of plain MobileNetV2 code: the last convolution and the classifier stand alone."""
    key = re.sub(r"^conv\.", "features.18.", key)
    return re.sub(r"^classifier\.(weight|bias)$", r"classifier.1.\1", key)


def _nested_mobilenetv2(key: str) -> str:
    """torchvision's names: within a block a convolution, its norm and its activation share a number, up to the last one."""
    match = re.fullmatch(r"(features\.(\d+)\.conv)\.(\d)(?:\.(\d))?\.(\D+)", key)
    if match is None:
        return key
    block, index, outer, inner, rest = match.groups()
    nested = 1 if index == "1" else 2  # the first block has no expansion
    position = int(outer) + 2 * nested if inner is None else 3 * int(outer) + int(inner)
    return f"{block}.{position}.{rest}"


def _lukemelas_efficientnet(key: str) -> str:
    """The names of EfficientNet-PyTorch (lukemelas), which counts the blocks of all stages in one sequence."""
    module, _, tensor = key.rpartition(".")
    return f"{_LUKEMELAS_MODULES.get(module, module)}.{tensor}"


def _lukemelas_modules() -> dict[str, str]:
    depthwise = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw"}
    expanding = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw"}
    depthwise |= {"_bn2": "bn2"}
    expanding |= {"_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}
    ours = [f"blocks.{s}.{b}" for s, stage in enumerate(STAGES) for b in range(stage.depth)]
    modules = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    modules |= {"_fc": "classifier"}
    for index, block in enumerate(ours):
        names = expanding if index else depthwise
        modules |= {f"_blocks.{index}.{old}": f"{block}.{new}" for old, new in names.items()}
    return modules


_LUKEMELAS_MODULES = _lukemelas_modules()

LAYOUTS: tuple[Callable[[str], str], ...] = (
    _as_it_is,
    _flat_mobilenetv2,
    _nested_mobilenetv2,
    _lukemelas_efficientnet,
)
"""Tried in this order; a layout fits when every name and shape does, so none can be mistaken for another."""
