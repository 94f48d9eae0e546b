"""Small networks on text, sound and pairs of images."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.architectures.map_networks import Residual, UNet, convolution

__all__ = [
    "AudioClassifier",
    "Change",
    "Fusion",
    "GatedAudio",
    "Halves",
    "Stereo",
    "TextReader",
    "keyword_spotter",
]


class TextReader(nn.Module):
    """Convolutions that collapse the height, and a reader of the columns: none, LSTM, GRU or attention."""

    def __init__(self, reader: str = "none", letters: int = 37, width: int = 48) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(convolution(3, width // 2), nn.MaxPool2d(2)),
            *(convolution(width // 2, width), nn.MaxPool2d(2)),
            *(convolution(width, width), nn.MaxPool2d((2, 1))),
            *(convolution(width, width), nn.AdaptiveAvgPool2d((1, None))),
        )
        recurrent = {"lstm": nn.LSTM, "gru": nn.GRU}
        self.recurrent = None
        self.attention = None
        if reader in recurrent:
            self.recurrent = recurrent[reader](
                width, width // 2, bidirectional=True, batch_first=True
            )
        if reader == "attention":
            self.attention = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True)
        self.letters = nn.Linear(width, letters)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.body(x).squeeze(2).transpose(1, 2)
        if self.recurrent is not None:
            columns = self.recurrent(columns)[0]
        if self.attention is not None:
            columns = self.attention(columns)
        letters: Tensor = self.letters(columns)
        return letters


class AudioClassifier(nn.Module):
    """Strided and dilated one-dimensional convolutions on a waveform, pooled over time."""

    def __init__(self, classes: int = 12, width: int = 24) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv1d(1, width, 16, 8), nn.BatchNorm1d(width), nn.ReLU())
        self.body = nn.Sequential(*(Residual(width, 1, dilation) for dilation in (1, 2, 4)))
        self.classes = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        classes: Tensor = self.classes(self.body(self.enter(x)).mean(2))
        return classes


def keyword_spotter() -> nn.Module:
    """Return depthwise separable convolutions on a spectrogram (DS-CNN)."""

    def separable(channels: int) -> nn.Module:
        depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        norms = [nn.BatchNorm2d(channels), nn.ReLU(), nn.BatchNorm2d(channels), nn.ReLU()]
        return nn.Sequential(depthwise, *norms[:2], pointwise, *norms[2:])

    enter = nn.Sequential(
        nn.Conv2d(1, 32, (10, 4), 2, (5, 1), bias=False), nn.BatchNorm2d(32), nn.ReLU()
    )
    rest = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 12))
    return nn.Sequential(enter, *(separable(32) for _ in range(3)), *rest)


class GatedAudio(nn.Module):
    """Gated dilated convolutions with skips that are added up (WaveNet)."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.enter = nn.Conv1d(1, width, 3, padding=1)
        self.gates = nn.ModuleList(
            [nn.Conv1d(width, 2 * width, 3, padding=d, dilation=d) for d in (1, 2, 4)]
        )
        self.skips = nn.ModuleList([nn.Conv1d(width, width, 1) for _ in range(3)])
        self.leave = nn.Conv1d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        total = torch.zeros_like(x)
        for gate, skip in zip(self.gates, self.skips, strict=True):
            kept, share = gate(x).chunk(2, 1)
            part = skip(kept.tanh() * share.sigmoid())
            x, total = x + part, total + part
        left: Tensor = self.leave(functional.relu(total))
        return left


class Halves(nn.Module):
    """One tensor in, two inputs of half its channels to a network that takes two."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        return self.network(*x.chunk(2, 1))


class Stereo(nn.Module):
    """One encoder for both images of a pair, then their features together: a disparity for each pixel."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.encoder = nn.Sequential(convolution(3, width, 2), Residual(width))
        self.decoder = UNet(2 * width, 1, width)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        pair = torch.cat([self.encoder(left), self.encoder(right)], 1)
        return functional.interpolate(self.decoder(pair), scale_factor=2.0, mode="bilinear")


class Fusion(nn.Module):
    """An encoder for each of two inputs, added at two depths (image and depth)."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.stems = nn.ModuleList([convolution(3, width, 2) for _ in range(2)])
        self.stages = nn.ModuleList([Residual(width) for _ in range(2)])
        self.classes = nn.Linear(width, 10)

    def forward(self, image: Tensor, depth: Tensor) -> Tensor:
        image, depth = self.stems[0](image), self.stems[1](depth)
        both = self.stages[0](image + depth) + self.stages[1](depth)
        classes: Tensor = self.classes(both.mean((2, 3)))
        return classes


class Change(nn.Module):
    """Difference of the features of two images: a mask of what changed, and whether anything did."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.encoder = nn.Sequential(convolution(3, width), Residual(width))
        self.mask = nn.Sequential(convolution(width, width), nn.Conv2d(width, 1, 1))

    def forward(self, before: Tensor, after: Tensor) -> dict[str, Tensor]:
        mask = self.mask((self.encoder(before) - self.encoder(after)).abs())
        return {"mask": mask, "changed": mask.amax((1, 2, 3))}
