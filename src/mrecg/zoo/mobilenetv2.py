"""MobileNetV2 (Sandler et al., CVPR 2018), with the parameter names of its published checkpoints."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Stage(NamedTuple):
    """One row of the paper's Table 2."""

    expansion: int
    channels: int
    depth: int
    stride: int


def _divisible(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, but never below 90 % of `channels` (the paper's rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def _conv_bn_relu6(
    in_channels: int, out_channels: int, kernel: int, stride: int, groups: int = 1
) -> list[nn.Module]:
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU6()]


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise and 1×1 linear projection, with a shortcut where shapes allow."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers = [] if expansion == 1 else _conv_bn_relu6(in_channels, hidden, 1, 1)
        layers += _conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden)
        layers += [nn.Conv2d(hidden, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
        self.conv = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        y: Tensor = self.conv(x)
        return x + y if self.has_shortcut else y


class MobileNetV2(nn.Module):
    """A stem, inverted residuals, a last 1×1 convolution and a classifier.

    Args:
        stages: rows of the paper's Table 2, for the images at hand.
        width: the width multiplier.
        last_channels: channels of the last convolution before the width multiplier.
        stem_stride: 2 for ImageNet, 1 for small images.
        in_channels: channels of the image.
        num_classes: outputs of the classifier.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        width: float,
        last_channels: int,
        stem_stride: int,
        in_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        channels = _divisible(32 * width)
        features: list[nn.Module] = [
            nn.Sequential(*_conv_bn_relu6(in_channels, channels, 3, stem_stride))
        ]
        for stage in stages:
            for index in range(stage.depth):
                out_channels = _divisible(stage.channels * width)
                stride = stage.stride if index == 0 else 1
                features.append(InvertedResidual(channels, out_channels, stride, stage.expansion))
                channels = out_channels
        last = _divisible(last_channels * width)
        features.append(nn.Sequential(*_conv_bn_relu6(channels, last, 1, 1)))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        x = self.avgpool(self.features(x))
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits


def mobilenetv2_small() -> MobileNetV2:
    """MobileNetV2 ×0.5 for 28×28 grey images: its 17 blocks, with strides 28 → 14 → 7 → 4."""
    stages = (
        Stage(1, 16, 1, 1),
        Stage(6, 24, 2, 2),
        Stage(6, 32, 3, 2),
        Stage(6, 64, 4, 1),
        Stage(6, 96, 3, 1),
        Stage(6, 160, 3, 2),
        Stage(6, 320, 1, 1),
    )
    return MobileNetV2(
        stages, width=0.5, last_channels=1280, stem_stride=1, in_channels=1, num_classes=10
    )
