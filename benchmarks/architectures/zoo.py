"""Networks of other kinds than classifiers, as `zoo:NAME`: small ones of our own, and the network parts of detectors.

What a library's detector does with boxes of many images (anchors, non-maximum suppression) is no part of a network: the
factories return what comes before it.
"""

import importlib
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import mrecg

__all__ = ["ZOO", "make_from_zoo"]


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


class HeadOf(nn.Module):
    """The network of one of torchvision's detectors: backbone, pyramid and heads, without anchors and their boxes."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone: nn.Module = detector.backbone
        self.head: nn.Module = getattr(detector, "head", None) or detector.rpn.head

    def forward(self, images: Tensor) -> Any:
        return self.head(list(self.backbone(images).values()))


def _torchvision(name: str, **options: Any) -> nn.Module:
    models = importlib.import_module("torchvision.models")
    made: nn.Module = models.get_model(name, weights=None, weights_backbone=None, **options)
    return made


def _on_small_pyramid(name: str) -> nn.Module:
    """Return a torchvision detector on a pyramid of ResNet-18."""
    detection = importlib.import_module("torchvision.models.detection")
    pyramid = detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, trainable_layers=5, norm_layer=nn.BatchNorm2d
    )
    return HeadOf(getattr(detection, name)(pyramid, num_classes=5))


def _segmentation_models(name: str, encoder: str) -> nn.Module:
    library = importlib.import_module("segmentation_models_pytorch")
    made: nn.Module = getattr(library, name)(encoder_name=encoder, encoder_weights=None, classes=5)
    return made


def _mtcnn(name: str) -> nn.Module:
    library = importlib.import_module("facenet_pytorch.models.mtcnn")
    made: nn.Module = getattr(library, name)(pretrained=False)
    return made


def _through_onnx(name: str, shape: tuple[int, ...]) -> nn.Module:
    """Return another network of the zoo as it comes back from an ONNX file of torch's own exporter."""
    model = ZOO[name]().eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            model,
            (torch.randn(2, *shape),),
            path,
            dynamo=True,
            dynamic_shapes=({0: "batch"},),
            verbose=False,
        )
        return mrecg.from_onnx(path)


ZOO: dict[str, Callable[[], nn.Module]] = {
    "lraspp": lambda: _torchvision("lraspp_mobilenet_v3_large"),
    "deeplabv3": lambda: _torchvision("deeplabv3_mobilenet_v3_large"),
    "fcn": lambda: _torchvision("fcn_resnet50"),
    "smp_unet": lambda: _segmentation_models("Unet", "resnet18"),
    "smp_fpn": lambda: _segmentation_models("FPN", "timm-mobilenetv3_small_minimal_100"),
    "smp_linknet": lambda: _segmentation_models("Linknet", "resnet18"),
    "unet": UNet,
    "retinanet": lambda: _on_small_pyramid("RetinaNet"),
    "fcos": lambda: _on_small_pyramid("FCOS"),
    "faster_rcnn_rpn": lambda: _on_small_pyramid("FasterRCNN"),
    "ssdlite": lambda: HeadOf(_torchvision("ssdlite320_mobilenet_v3_large")),
    "yolo": Yolo,
    "centernet": CenterNet,
    "espcn": Espcn,
    "fsrcnn": fsrcnn,
    "edsr": lambda: Espcn(nn.ReLU, blocks=3, skip=True),
    "dense_super_resolution": DenseSuperResolution,
    "pose_heatmaps": PoseHeatmaps,
    "pose_coordinates": PoseCoordinates,
    "hourglass": Hourglass,
    "text": TextReader,
    "text_lstm": lambda: TextReader("lstm"),
    "text_gru": lambda: TextReader("gru"),
    "text_attention": lambda: TextReader("attention"),
    "audio_classifier": AudioClassifier,
    "audio_unet": lambda: UNet(1, 1, axes=1),
    "audio_gated": GatedAudio,
    "keyword_spotter": keyword_spotter,
    "pnet": lambda: _mtcnn("PNet"),
    "rnet": lambda: _mtcnn("RNet"),
    "onet": lambda: _mtcnn("ONet"),
    "stereo": lambda: Halves(Stereo()),
    "fusion": lambda: Halves(Fusion()),
    "change": lambda: Halves(Change()),
    "onnx_unet": lambda: _through_onnx("unet", (3, 64, 64)),
    "onnx_lraspp": lambda: _through_onnx("lraspp", (3, 64, 64)),
    "onnx_yolo": lambda: _through_onnx("yolo", (3, 64, 64)),
    "onnx_espcn": lambda: _through_onnx("espcn", (3, 32, 32)),
    "onnx_text": lambda: _through_onnx("text", (3, 32, 128)),
    "onnx_retinanet": lambda: _through_onnx("retinanet", (3, 128, 128)),
    "onnx_audio": lambda: _through_onnx("audio_classifier", (1, 4000)),
}


def make_from_zoo(name: str) -> nn.Module:
    """Make a network of the zoo, in evaluation mode."""
    return ZOO[name]().eval()
