"""ResNet (He et al., CVPR 2016), with torchvision's parameter names."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, which is projected where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        y: Tensor = self.relu(self.bn2(self.conv2(x)) + shortcut)
        return y


class ResNet(nn.Module):
    """A stem, four stages of basic blocks whose width doubles, and a classifier.

    Args:
        depths: blocks per stage.
        width: channels of the stem and of the first stage.
        in_channels: channels of the image.
        num_classes: outputs of the classifier.
    """

    def __init__(
        self, depths: Sequence[int], width: int, in_channels: int, num_classes: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        channels = width
        for stage, depth in enumerate(depths):
            blocks: OrderedDict[str, nn.Module] = OrderedDict()
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks[str(index)] = BasicBlock(channels, width << stage, stride)
                channels = width << stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(blocks))
        self.stages = len(depths)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        x = self.relu(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def resnet18_small() -> ResNet:
    """ResNet-18 for 28×28 grey images: its eight blocks at a quarter of the width, 3×3 stem, no pooling."""
    return ResNet(depths=(2, 2, 2, 2), width=16, in_channels=1, num_classes=10)
