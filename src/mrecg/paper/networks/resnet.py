"""ResNet (He et al., CVPR 2016), with torchvision's parameter names.

A bottleneck has its stride on the 3×3 convolution, as in torchvision and in the papers' checkpoints ("v1.5"); the paper
puts it on the first 1×1 convolution.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, which is projected where the shape changes."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.downsample = _projection(in_channels, channels, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        y: Tensor = self.relu(self.bn2(self.conv2(x)) + shortcut)
        return y


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolution to four times the channels, and a shortcut as in a basic block."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.downsample = _projection(in_channels, out_channels, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        y: Tensor = self.relu(self.bn3(self.conv3(x)) + shortcut)
        return y


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    if stride == 1 and in_channels == out_channels:
        return None
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


class ResNet(nn.Module):
    """A stem, four stages of blocks whose width doubles, and a classifier.

    Args:
        block: the class of the blocks.
        depths: blocks per stage.
        width: channels of the stem, and of the first stage before a bottleneck's expansion.
        stem_stride: 2 for ImageNet (7×7, then max pooling), 1 for small images (3×3, no pooling).
        in_channels: channels of the image.
        num_classes: outputs of the classifier.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        width: int,
        stem_stride: int,
        in_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        kernel = 3 if stem_stride == 1 else 7
        self.conv1 = nn.Conv2d(in_channels, width, kernel, stem_stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        # 28×28 images would shrink to 7×7 before the first block.
        self.maxpool = nn.Identity() if stem_stride == 1 else nn.MaxPool2d(3, 2, 1)
        channels = width
        for stage, depth in enumerate(depths):
            blocks: OrderedDict[str, nn.Module] = OrderedDict()
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks[str(index)] = block(channels, width << stage, stride)
                channels = (width << stage) * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(blocks))
        self.stages = len(depths)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def make_resnet(depth: int, num_classes: int) -> ResNet:
    """Make ResNet-`depth` for ImageNet (Table 1 of the paper)."""
    block, depths = IMAGENET_DEPTHS[depth]
    return ResNet(block, depths, 64, stem_stride=2, in_channels=3, num_classes=num_classes)


IMAGENET_DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


def make_resnet18_small(num_classes: int) -> ResNet:
    """Make ResNet-18 for 28×28 gray images: its eight blocks at a quarter of the width, 3×3 stem, no pooling."""
    return ResNet(
        BasicBlock, (2, 2, 2, 2), 16, stem_stride=1, in_channels=1, num_classes=num_classes
    )
