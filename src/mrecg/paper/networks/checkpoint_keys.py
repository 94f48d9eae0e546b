"""Renamings of checkpoint keys: from other projects' tensor names to those of our definitions."""

import re
from collections.abc import Callable

from mrecg.paper.networks.efficientnet_lite import EFFICIENTNET_STAGES

__all__ = ["KEY_RENAMINGS"]


def _unchanged(key: str) -> str:
    """Keep the names of our definitions."""
    return key


def _flat_mobilenetv2(key: str) -> str:
    """Rename from d-li14's mobilenetv2.pytorch, where the last convolution and the classifier are attributes of their own."""
    key = re.sub(r"^conv\.", "features.18.", key)
    return re.sub(r"^classifier\.(weight|bias)$", r"classifier.1.\1", key)


def _nested_mobilenetv2(key: str) -> str:
    """Rename from torchvision, which numbers convolution, norm and activation together: `conv.1.0` is our `conv.3`."""
    match = re.fullmatch(r"(features\.(\d+)\.conv)\.(\d)(?:\.(\d))?\.(\D+)", key)
    if match is None:
        return key
    block, index, outer, inner, rest = match.groups()
    nested = (
        1 if index == "1" else 2
    )  # the first block has no expansion, so one ConvNormActivation less
    position = int(outer) + 2 * nested if inner is None else 3 * int(outer) + int(inner)
    return f"{block}.{position}.{rest}"


def _lukemelas_efficientnet(key: str) -> str:
    """Rename from EfficientNet-PyTorch (lukemelas), which numbers the blocks of all stages in one sequence."""
    module, _, tensor = key.rpartition(".")
    return f"{_LUKEMELAS_MODULES.get(module, module)}.{tensor}"


def _lukemelas_modules() -> dict[str, str]:
    """Map its modules to ours; the first block has no expansion, so its norms are numbered differently."""
    depthwise = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw"}
    expanding = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw"}
    depthwise |= {"_bn2": "bn2"}
    expanding |= {"_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}
    ours = [
        f"blocks.{s}.{b}" for s, stage in enumerate(EFFICIENTNET_STAGES) for b in range(stage.depth)
    ]
    modules = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    modules |= {"_fc": "classifier"}
    for index, block in enumerate(ours):
        names = expanding if index else depthwise
        modules |= {f"_blocks.{index}.{old}": f"{block}.{new}" for old, new in names.items()}
    return modules


_LUKEMELAS_MODULES = _lukemelas_modules()

KEY_RENAMINGS: tuple[Callable[[str], str], ...] = (
    _unchanged,
    _flat_mobilenetv2,
    _nested_mobilenetv2,
    _lukemelas_efficientnet,
)
"""Tried in this order; one fits when every name and shape does, so none can be mistaken for another."""
