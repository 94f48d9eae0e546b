"""EfficientNet-Lite0 (Tan & Le, ICML 2019; without squeeze-and-excitation, for integer hardware), with timm's names.

The published weights were trained in TensorFlow: they need its "same" padding, which puts the odd row and column behind
the image, and its batch normalization's ε of 1e-3.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class EfficientNetStage(NamedTuple):
    """One row of Table 1."""

    expansion: int
    channels: int
    depth: int
    kernel: int
    stride: int


EFFICIENTNET_STAGES = (
    EfficientNetStage(1, 16, 1, 3, 1),
    EfficientNetStage(6, 24, 2, 3, 2),
    EfficientNetStage(6, 40, 2, 5, 2),
    EfficientNetStage(6, 80, 3, 3, 2),
    EfficientNetStage(6, 112, 3, 5, 1),
    EfficientNetStage(6, 192, 4, 5, 2),
    EfficientNetStage(6, 320, 1, 3, 1),
)


class SamePaddedConv2d(nn.Conv2d):
    """A strided convolution with TensorFlow's "same" padding, which depends on the size of the image."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        height, width = (
            max((-(-side // stride) - 1) * stride + kernel - side, 0)
            for side, kernel, stride in zip(x.shape[2:], self.kernel_size, self.stride, strict=True)
        )
        margins = (width // 2, width - width // 2, height // 2, height - height // 2)
        return super().forward(functional.pad(x, margins))


def _conv(in_channels: int, channels: int, kernel: int, stride: int, groups: int = 1) -> nn.Conv2d:
    shape = (in_channels, channels, kernel, stride)
    if stride > 1:
        return SamePaddedConv2d(*shape, groups=groups, bias=False)
    return nn.Conv2d(*shape, kernel // 2, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class DepthwiseSeparable(nn.Module):
    """A depthwise and a linear 1×1 convolution: an inverted residual without expansion."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = _conv(in_channels, in_channels, kernel, stride, in_channels)
        self.bn1 = _norm(in_channels)
        self.conv_pw = _conv(in_channels, channels, 1, 1)
        self.bn2 = _norm(channels)
        self.act = nn.ReLU6()
        self.has_shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        y: Tensor = self.bn2(self.conv_pw(self.act(self.bn1(self.conv_dw(x)))))
        return x + y if self.has_shortcut else y


class ExpandedBlock(nn.Module):
    """1×1 expansion, depthwise and linear 1×1 convolution, with a shortcut where shapes allow."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.conv_pw = _conv(in_channels, hidden, 1, 1)
        self.bn1 = _norm(hidden)
        self.conv_dw = _conv(hidden, hidden, kernel, stride, hidden)
        self.bn2 = _norm(hidden)
        self.conv_pwl = _conv(hidden, channels, 1, 1)
        self.bn3 = _norm(channels)
        self.act = nn.ReLU6()
        self.has_shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        hidden = self.act(self.bn1(self.conv_pw(x)))
        y: Tensor = self.bn3(self.conv_pwl(self.act(self.bn2(self.conv_dw(hidden)))))
        return x + y if self.has_shortcut else y


class EfficientNetLite0(nn.Module):
    """A stem, seven stages, a last 1×1 convolution and a classifier."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        channels = 32
        self.conv_stem = _conv(3, channels, 3, 2)
        self.bn1 = _norm(channels)
        self.act = nn.ReLU6()
        stages = []
        for stage in EFFICIENTNET_STAGES:
            blocks: list[nn.Module] = []
            for index in range(stage.depth):
                stride = stage.stride if index == 0 else 1
                shape = (channels, stage.channels, stage.kernel, stride)
                blocks.append(
                    DepthwiseSeparable(*shape)
                    if stage.expansion == 1
                    else ExpandedBlock(*shape, stage.expansion)
                )
                channels = stage.channels
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = _conv(channels, 1280, 1, 1)
        self.bn2 = _norm(1280)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(1280, num_classes)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        x = self.blocks(self.act(self.bn1(self.conv_stem(x))))
        x = self.avgpool(self.act(self.bn2(self.conv_head(x))))
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits
