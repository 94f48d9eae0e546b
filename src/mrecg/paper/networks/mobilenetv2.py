"""MobileNetV2 (Sandler et al., CVPR 2018), with the parameter names of the papers' checkpoints.

Within a block these number the layers in one sequence (`conv.3`), where torchvision nests them (`conv.1.0`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Stage(NamedTuple):
    """One row of Table 2, without its stride."""

    expansion: int
    channels: int
    depth: int


STAGES = (
    Stage(1, 16, 1),
    Stage(6, 24, 2),
    Stage(6, 32, 3),
    Stage(6, 64, 4),
    Stage(6, 96, 3),
    Stage(6, 160, 3),
    Stage(6, 320, 1),
)


def _divisible(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, but never below 90 % of `channels`, as the authors' TensorFlow code does."""
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
    """1×1 expansion, 3×3 depthwise and 1×1 linear projection; a shortcut where the shape stays."""

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
        strides: of the first block of each of the seven stages.
        width: the width multiplier of stem and blocks.
        last_channels: channels of the last convolution.
        stem_stride: 2 for ImageNet, 1 for small images.
        in_channels: channels of the image.
        num_classes: outputs of the classifier.
        dropout: probability with which training drops a feature before the classifier.
    """

    def __init__(
        self,
        strides: Sequence[int],
        width: float,
        last_channels: int,
        stem_stride: int,
        in_channels: int,
        num_classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        channels = _divisible(32 * width)
        features: list[nn.Module] = [
            nn.Sequential(*_conv_bn_relu6(in_channels, channels, 3, stem_stride))
        ]
        for (expansion, wanted, depth), first_stride in zip(STAGES, strides, strict=True):
            for index in range(depth):
                out_channels = _divisible(wanted * width)
                stride = first_stride if index == 0 else 1
                features.append(InvertedResidual(channels, out_channels, stride, expansion))
                channels = out_channels
        features.append(nn.Sequential(*_conv_bn_relu6(channels, last_channels, 1, 1)))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last_channels, num_classes))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        x = self.avgpool(self.features(x))
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits


def make_mobilenetv2(width: float, num_classes: int) -> MobileNetV2:
    """Make MobileNetV2 for ImageNet; below width 1 the last convolution keeps its 1,280 channels."""
    return MobileNetV2(
        strides=(1, 2, 2, 2, 1, 2, 1),
        width=width,
        last_channels=_divisible(1280 * max(1.0, width)),
        stem_stride=2,
        in_channels=3,
        num_classes=num_classes,
        dropout=0.2,
    )


def make_mobilenetv2_small(num_classes: int) -> MobileNetV2:
    """Make MobileNetV2 ×0.5 for 28×28 gray images: its 17 blocks, with sides 28 → 14 → 7 → 4."""
    return MobileNetV2(
        strides=(1, 2, 2, 1, 1, 2, 1),
        width=0.5,
        last_channels=640,
        stem_stride=1,
        in_channels=1,
        num_classes=num_classes,
        dropout=0.0,
    )
