"""Networks of other kinds than classifiers, as `zoo:NAME`: small ones of our own, and the network parts of detectors.

What a library's detector does with boxes of many images (anchors, non-maximum suppression) is no part of a network: the
factories return what comes before it.
"""

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mrecg
from benchmarks.architectures.map_networks import (
    CenterNet,
    DenseSuperResolution,
    Espcn,
    Hourglass,
    PoseCoordinates,
    PoseHeatmaps,
    UNet,
    Yolo,
    fsrcnn,
)
from benchmarks.architectures.sequence_networks import (
    AudioClassifier,
    Change,
    Fusion,
    GatedAudio,
    Halves,
    Stereo,
    TextReader,
    keyword_spotter,
)

__all__ = ["ZOO", "make_from_zoo"]


__all__ = ["ZOO", "make_from_zoo"]


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
