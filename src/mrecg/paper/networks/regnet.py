"""RegNetX (Radosavovic et al., "Designing Network Design Spaces", CVPR 2020), with pycls' parameter names."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn


class BottleneckTransform(nn.Module):
    """1×1, grouped 3×3 and 1×1 convolution, all of one width: the bottleneck ratio of RegNetX is 1."""

    def __init__(self, in_channels: int, channels: int, stride: int, group_width: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.a_bn = nn.BatchNorm2d(channels)
        self.a_relu = nn.ReLU()
        groups = channels // min(group_width, channels)
        self.b = nn.Conv2d(channels, channels, 3, stride, 1, groups=groups, bias=False)
        self.b_bn = nn.BatchNorm2d(channels)
        self.b_relu = nn.ReLU()
        self.c = nn.Conv2d(channels, channels, 1, bias=False)
        self.c_bn = nn.BatchNorm2d(channels)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        x = self.a_relu(self.a_bn(self.a(x)))
        x = self.b_relu(self.b_bn(self.b(x)))
        y: Tensor = self.c_bn(self.c(x))
        return y


class ResidualBottleneck(nn.Module):
    """A bottleneck and a shortcut, which a 1×1 convolution projects where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int, group_width: int) -> None:
        super().__init__()
        self.proj: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.proj = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.bn = nn.BatchNorm2d(channels)
        self.f = BottleneckTransform(in_channels, channels, stride, group_width)
        self.relu = nn.ReLU()

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        shortcut = x if self.proj is None else self.bn(self.proj(x))
        y: Tensor = self.relu(shortcut + self.f(x))
        return y


class Stem(nn.Module):
    """A 3×3 convolution."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        y: Tensor = self.relu(self.bn(self.conv(x)))
        return y


class Head(nn.Module):
    """Global average pooling and a classifier."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        logits: Tensor = self.fc(self.avg_pool(x).flatten(1))
        return logits


class RegNetX(nn.Module):
    """A stem, stages of residual bottlenecks and a head.

    Args:
        depths: blocks per stage.
        widths: channels per stage.
        strides: stride of the first block of each stage.
        group_width: channels per group of the 3×3 convolutions, at most the width of a stage.
        stem_channels: channels of the stem.
        stem_stride: 2 for ImageNet, 1 for small images.
        in_channels: channels of the image.
        num_classes: outputs of the classifier.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        strides: Sequence[int],
        group_width: int,
        stem_channels: int,
        stem_stride: int,
        in_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.stem = Stem(in_channels, stem_channels, stem_stride)
        channels = stem_channels
        for stage, (depth, width, stride) in enumerate(zip(depths, widths, strides, strict=True)):
            blocks = nn.Sequential()
            for index in range(depth):
                block = ResidualBottleneck(
                    channels, width, stride if index == 0 else 1, group_width
                )
                blocks.add_module(f"b{index + 1}", block)
                channels = width
            self.add_module(f"s{stage + 1}", blocks)
        self.head = Head(channels, num_classes)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        for part in self.children():
            x = part(x)
        return x


class WidthRule(NamedTuple):
    """Give every block a width by the quantized linear rule (equations 2 to 4).

    Attributes:
        initial: width w₀ of the first block.
        slope: w_a, added per block.
        multiplier: factor w_m between neighboring stages.
        depth: number of blocks.
        group_width: channels per group of the 3×3 convolutions.
    """

    initial: int
    slope: float
    multiplier: float
    depth: int
    group_width: int

    def stages(self) -> dict[int, int]:
        """Return the depth of each stage by its width.

        The linear widths u_j = w_0 + w_a j (equation 2) are quantized to powers of w_m (equations 3 and 4), so that
        blocks of equal width form a stage.
        """
        widths = []
        for block in range(self.depth):
            wanted = self.initial + self.slope * block
            power = round(math.log(wanted / self.initial) / math.log(self.multiplier))
            width = round(self.initial * self.multiplier**power / 8) * 8
            # The 3×3 convolution needs whole groups. Not in the paper: pycls rounds once more, to a multiple
            # of the group width, which is why RegNetX-600M has stages of 48, 96, 240 and 528 channels.
            group_width = min(self.group_width, width)
            widths.append(round(width / group_width) * group_width)
        return Counter(widths)  # in the order of the stages: the widths never fall


WIDTH_RULES = {
    200: WidthRule(24, 36.44, 2.49, 13, 8),
    400: WidthRule(24, 24.48, 2.54, 22, 16),
    600: WidthRule(48, 36.97, 2.24, 16, 24),
    800: WidthRule(56, 35.73, 2.28, 16, 16),
    1600: WidthRule(80, 34.01, 2.25, 18, 24),
    3200: WidthRule(88, 26.31, 2.25, 25, 48),
    4000: WidthRule(96, 38.65, 2.43, 23, 40),
    6400: WidthRule(184, 60.83, 2.07, 17, 56),
    8000: WidthRule(80, 49.56, 2.88, 23, 120),
    12000: WidthRule(168, 73.36, 2.37, 19, 112),
    16000: WidthRule(216, 55.59, 2.1, 22, 128),
    32000: WidthRule(320, 69.86, 2.0, 23, 168),
}
"""The parameters of pycls' model zoo, by millions of multiply-adds."""


def make_regnetx(mega_multiply_adds: int, num_classes: int) -> RegNetX:
    """Make RegNetX for ImageNet."""
    rule = WIDTH_RULES[mega_multiply_adds]
    stages = rule.stages()
    return RegNetX(
        depths=tuple(stages.values()),
        widths=tuple(stages),
        strides=(2,) * len(stages),
        group_width=rule.group_width,
        stem_channels=32,
        stem_stride=2,
        in_channels=3,
        num_classes=num_classes,
    )


def make_regnetx_small(num_classes: int) -> RegNetX:
    """Make RegNetX-600M for 28×28 gray images: its 16 blocks at a third of the width, with sides 28 → 14 → 7 → 4."""
    return RegNetX(
        depths=(1, 3, 5, 7),
        widths=(16, 32, 80, 176),
        strides=(1, 2, 2, 2),
        group_width=8,
        stem_channels=16,
        stem_stride=1,
        in_channels=1,
        num_classes=num_classes,
    )
