"""MTCNN with the weights that facenet-pytorch ships: three small networks, and what is between them.

P-Net looks at every place of an image at many sizes, R-Net at what it proposes, O-Net at what is left. Cutting, resizing and
suppression are the package's own, whoever computes the networks.
"""

import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.architectures.torchvision_import import import_torchvision
from benchmarks.natural_images.photographs import packaged, photographs

__all__ = [
    "STAGES",
    "File",
    "Recorder",
    "calibration_photographs",
    "faces",
    "float_stages",
    "held_out_photographs",
]

STAGES = {"PNet": (3, 64, 64), "RNet": (3, 24, 24), "ONet": (3, 48, 48)}
"""Each network with the shape that it is captured with; P-Net takes any."""
SMALLEST_FACE = 20
FACTOR = 0.709
"""Between two sizes of the image."""
THRESHOLDS = (0.6, 0.7, 0.7)
HELD_OUT = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/camera.png"),
    ("insightface", "data/images/t1.jpg"),
    ("ultralytics", "assets/*.jpg"),
)
SHEET = (10, 75)
"""Faces on a side of the sheet, and pixels of each."""


class Recorder(nn.Module):
    """Keep what a network is given.

    Attributes:
        given: each input.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.given = network, list[Tensor]()

    def forward(self, x: Tensor) -> Any:
        self.given.append(x)
        return self.network(x)


class File(nn.Module):
    """An ONNX file in the place of a network, on one thread."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.name = self.session.get_inputs()[0].name
        self.precision = nn.Parameter(torch.zeros(0))  # the package asks for it

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found = self.session.run(None, {self.name: x.numpy()})
        return tuple(torch.from_numpy(one) for one in found)

    def seconds(self, inputs: list[Tensor]) -> float:
        """Return the time that the file takes for all inputs, one after the other."""
        arrays = [{self.name: one.numpy()} for one in inputs]
        started = time.perf_counter()
        for one in arrays:
            self.session.run(None, one)
        return time.perf_counter() - started


def _package() -> Any:
    """Import the package; its suppression is torchvision's compiled one, which another build of torch does not load."""
    import_torchvision()
    detect: Any = importlib.import_module("facenet_pytorch.models.utils.detect_face")

    def suppressed(boxes: Tensor, scores: Tensor, images: Tensor, threshold: float) -> Tensor:
        kept: Tensor = detect.batched_nms_numpy(boxes, scores, images, threshold, "Union")
        return kept

    detect.batched_nms = suppressed
    return detect


def float_stages() -> dict[str, nn.Module]:
    """Return the three networks with their weights."""
    _package()
    networks = importlib.import_module("facenet_pytorch.models.mtcnn")
    return {name: getattr(networks, name)().eval() for name in STAGES}


def faces(
    stages: Mapping[str, nn.Module], image: Image.Image, thresholds: tuple[float, ...] = THRESHOLDS
) -> np.ndarray:
    """Return the boxes of faces, each as left, top, right, bottom, score."""
    with torch.no_grad():
        boxes, _ = _package().detect_face(
            image, SMALLEST_FACE, *stages.values(), thresholds, FACTOR, torch.device("cpu")
        )
    return np.asarray(boxes[0], np.float64).reshape(-1, 5)


def calibration_photographs() -> list[Image.Image]:
    """Return the photographs to calibrate on: those of `natural_images` but the astronaut, and a sheet of small faces."""
    held_out = {path for source in HELD_OUT for path in packaged(*source)}
    opened = [_opened(path) for _, path in photographs() if path not in held_out]
    return [*opened, _sheet()]


def held_out_photographs() -> dict[str, Image.Image]:
    """Return the photographs to compare on, by name, each also mirrored."""
    found = {}
    for source in HELD_OUT:
        for path in packaged(*source):
            found[path.name] = _opened(path)
            found[f"{path.name}, mirrored"] = _opened(path).transpose(
                Image.Transpose.FLIP_LEFT_RIGHT
            )
    return found


def _sheet() -> Image.Image:
    """Return the faces of scikit-image's part of Labeled Faces in the Wild, enlarged, in rows."""
    (path,) = packaged("skimage", "data/lfw_subset.npy")
    count, side = SHEET
    sheet = Image.new("RGB", (count * side, count * side))
    for index, face in enumerate(np.load(path)[: count**2]):
        image = Image.fromarray((face * 255).astype(np.uint8)).resize((side, side))
        sheet.paste(image.convert("RGB"), (index % count * side, index // count * side))
    return sheet


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
