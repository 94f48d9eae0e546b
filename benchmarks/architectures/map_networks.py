"""Small networks whose answers are maps, boxes or places: segmentation, detection, super-resolution, pose."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "Bottleneck",
    "CenterNet",
    "DenseSuperResolution",
    "Espcn",
    "Hourglass",
    "PoseCoordinates",
    "PoseHeatmaps",
    "Residual",
    "UNet",
    "Yolo",
    "convolution",
    "fsrcnn",
]


def convolution(
    inputs: int, outputs: int, stride: int = 1, activation: type = nn.ReLU
) -> nn.Module:
    """Return a 3×3 convolution with its norm and activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), activation()
    )


class Residual(nn.Module):
    """Two convolutions and a shortcut, in as many axes as the images have."""

    def __init__(self, channels: int, axes: int = 2, dilation: int = 1, norm: bool = True) -> None:
        super().__init__()
        layer, norms = (nn.Conv1d, nn.BatchNorm1d) if axes == 1 else (nn.Conv2d, nn.BatchNorm2d)
        self.first = layer(channels, channels, 3, padding=dilation, dilation=dilation)
        self.norm = norms(channels) if norm else nn.Identity()
        self.second = layer(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.second(functional.relu(self.norm(self.first(x))))
        return x + made


class UNet(nn.Module):
    """Two levels down, two up by transposed convolutions, with skips; one axis or two."""

    def __init__(self, inputs: int = 3, outputs: int = 5, width: int = 16, axes: int = 2) -> None:
        super().__init__()
        layer, up = (
            (nn.Conv1d, nn.ConvTranspose1d) if axes == 1 else (nn.Conv2d, nn.ConvTranspose2d)
        )
        widths = (width, 2 * width, 4 * width)
        self.stem = layer(inputs, width, 3, padding=1)
        self.encoders = nn.ModuleList([Residual(each, axes) for each in widths])
        pairs = list(itertools.pairwise(widths))
        self.downs = nn.ModuleList([layer(small, large, 2, 2) for small, large in pairs])
        self.ups = nn.ModuleList([up(large, small, 2, 2) for small, large in pairs[::-1]])
        self.joins = nn.ModuleList(
            [layer(2 * small, small, 3, padding=1) for small, _ in pairs[::-1]]
        )
        self.head = layer(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoders[0](self.stem(x))
        skips = []
        for down, encoder in zip(self.downs, list(self.encoders)[1:], strict=True):
            skips.append(x)
            x = encoder(functional.relu(down(x)))
        for up, join in zip(self.ups, self.joins, strict=True):
            x = functional.relu(join(torch.cat([up(x), skips.pop()], 1)))
        head: Tensor = self.head(x)
        return head


class Bottleneck(nn.Module):
    """The C2f block of YOLOv8: split, a chain of residual blocks, everything concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.enter = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.SiLU())
        self.inner = nn.ModuleList(
            [
                nn.Sequential(
                    convolution(half, half, 1, nn.SiLU), convolution(half, half, 1, nn.SiLU)
                )
            ]
        )
        self.leave = nn.Sequential(nn.Conv2d(3 * half, channels, 1), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.inner:
            parts.append(parts[-1] + block(parts[-1]))
        left: Tensor = self.leave(torch.cat(parts, 1))
        return left


class Yolo(nn.Module):
    """A detector after YOLOv8: two levels, distributions of box sides, decoded boxes, the raw levels nested beside them."""

    bins = 8

    def __init__(self, classes: int = 6, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            convolution(3, width, 2, nn.SiLU), convolution(width, 2 * width, 2, nn.SiLU)
        )
        self.fine = nn.Sequential(
            convolution(2 * width, 4 * width, 2, nn.SiLU), Bottleneck(4 * width)
        )
        self.coarse = nn.Sequential(
            convolution(4 * width, 4 * width, 2, nn.SiLU), Bottleneck(4 * width)
        )
        self.merge = nn.Sequential(nn.Conv2d(8 * width, 4 * width, 1), Bottleneck(4 * width))
        self.boxes = nn.ModuleList([nn.Conv2d(4 * width, 4 * self.bins, 1) for _ in range(2)])
        self.scores = nn.ModuleList([nn.Conv2d(4 * width, classes, 1) for _ in range(2)])
        self.integral = nn.Conv2d(self.bins, 1, 1, bias=False)
        self.integral.weight.data = torch.arange(self.bins).float().reshape(1, self.bins, 1, 1)
        self.integral.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> dict[str, Any]:
        fine = self.fine(self.stem(x))
        coarse = self.coarse(fine)
        fine = self.merge(torch.cat([fine, functional.interpolate(coarse, scale_factor=2.0)], 1))
        levels = [
            (box(level), score(level))
            for level, box, score in zip((fine, coarse), self.boxes, self.scores, strict=True)
        ]
        sides = torch.cat([box.flatten(2) for box, _ in levels], 2)
        shares = sides.unflatten(1, (4, self.bins)).transpose(1, 2).softmax(1)
        scores = torch.cat([score.flatten(2) for _, score in levels], 2).sigmoid()
        return {"found": {"boxes": self.integral(shares)[:, 0], "scores": scores}, "levels": levels}


class CenterNet(nn.Module):
    """Heatmaps of centers, sizes and offsets on one map."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = UNet(3, 2 * width, width)
        heads = {"heatmap": 4, "size": 2, "offset": 2}
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(convolution(2 * width, width), nn.Conv2d(width, outputs, 1))
                for name, outputs in heads.items()
            }
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        level = functional.relu(self.body(x))
        return {name: head(level) for name, head in self.heads.items()}


class Espcn(nn.Module):
    """Super-resolution that ends in PixelShuffle."""

    def __init__(self, activation: type = nn.Tanh, blocks: int = 0, skip: bool = False) -> None:
        super().__init__()
        self.skip = skip
        self.enter = nn.Sequential(nn.Conv2d(3, 32, 5, padding=2), activation())
        self.blocks = nn.Sequential(*(Residual(32, norm=False) for _ in range(blocks)))
        self.leave = nn.Sequential(nn.Conv2d(32, 3 * 4, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        larger: Tensor = self.leave(self.blocks(self.enter(x)))
        if self.skip:
            larger = larger + functional.interpolate(x, scale_factor=2.0, mode="bilinear")
        return larger


def fsrcnn() -> nn.Module:
    """Return a shrinking and expanding network that ends in a transposed convolution."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 32, 5, padding=2), nn.PReLU(32)),
        nn.Sequential(nn.Conv2d(32, 12, 1), nn.PReLU(12)),
        *(nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.PReLU(12)) for _ in range(3)),
        nn.Sequential(nn.Conv2d(12, 32, 1), nn.PReLU(32)),
        nn.ConvTranspose2d(32, 3, 9, 2, 4, output_padding=1),
    )


class DenseSuperResolution(nn.Module):
    """Residual dense blocks with scaled shortcuts, as in ESRGAN; enlarged by resizing between convolutions."""

    def __init__(self, width: int = 16, growth: int = 8) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.dense = nn.ModuleList(
            [
                nn.Conv2d(width + i * growth, growth if i < 2 else width, 3, padding=1)
                for i in range(3)
            ]
        )
        self.enlarge = nn.Conv2d(width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.enter(x)
        parts = [first]
        for layer in list(self.dense)[:-1]:
            parts.append(functional.leaky_relu(layer(torch.cat(parts, 1)), 0.2))
        level = first + 0.2 * self.dense[-1](torch.cat(parts, 1))
        level = self.enlarge(functional.interpolate(level, scale_factor=2.0))
        left: Tensor = self.leave(functional.leaky_relu(level, 0.2))
        return left


class PoseHeatmaps(nn.Module):
    """A small backbone and transposed convolutions to a heatmap for each joint (SimpleBaseline)."""

    def __init__(self, joints: int = 17, width: int = 24) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(3, width, 2), convolution(width, width, 2), Residual(width), Residual(width)
        )
        up = [nn.ConvTranspose2d(width, width, 4, 2, 1), nn.BatchNorm2d(width), nn.ReLU()]
        self.up = nn.Sequential(*up)
        self.joints = nn.Conv2d(width, joints, 1)

    def forward(self, x: Tensor) -> Tensor:
        heatmaps: Tensor = self.joints(self.up(self.body(x)))
        return heatmaps


class PoseCoordinates(nn.Module):
    """The same heatmaps as coordinates: the expectation over each map, next to the maps (integral regression)."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = PoseHeatmaps()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.maps(x)
        shares = maps.flatten(2).softmax(2).unflatten(2, maps.shape[2:])
        places = torch.linspace(0, 1, maps.shape[2])
        return torch.stack(
            [(shares.sum(2) * places).sum(2), (shares.sum(3) * places).sum(2)], 2
        ), maps


class Hourglass(nn.Module):
    """Two stacked hourglasses; both give heatmaps, as a list."""

    def __init__(self, joints: int = 17, width: int = 24) -> None:
        super().__init__()
        self.stem = convolution(3, width, 2)
        self.stacks = nn.ModuleList([UNet(width, width, width) for _ in range(2)])
        self.heads = nn.ModuleList([nn.Conv2d(width, joints, 1) for _ in range(2)])
        self.returns = nn.Conv2d(joints, width, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, heatmaps = self.stem(x), []
        for stack, head in zip(self.stacks, self.heads, strict=True):
            level = functional.relu(stack(x))
            heatmaps.append(head(level))
            x = x + level + self.returns(heatmaps[-1])
        return heatmaps
