"""A detector that comes as an ONNX file: YOLOv8n of NudeNet, whose wheel ships its trained weights; it finds faces among other things."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.detector.cascade import calibration_photographs
from benchmarks.detector.render import overlap
from benchmarks.natural_images.photographs import packaged

__all__ = ["NAME", "SIDE", "calibration_images", "faces_in", "network_file", "squares"]

NAME = "YOLOv8n"
SIDE = 320
SMALLEST_SCORE, MOST_OVERLAP = 0.2, 0.45
"""As in the package: scores below are dropped, and boxes of one class that overlap more are one."""
CLASSES, FACES = 18, (1, 12)
"""How many the network knows, and those that are faces."""
SINGLE_FACES = "data/images/[Tm]*_*"
SEED = 1005


def network_file() -> Path:
    """Return the file in the package."""
    (path,) = packaged("nudenet", "320n.onnx")
    return path


def squares(images: Iterable[Image.Image]) -> Tensor:
    """Return images as the network takes them: filled up to a square at the right and below, resized, between 0 and 1."""
    made = []
    for image in images:
        square = Image.new("RGB", (max(image.size),) * 2)
        square.paste(image, (0, 0))
        resized = square.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        made.append(torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255)
    return torch.stack(made)


def calibration_images(count: int) -> Tensor:
    """Return views of the photographs for calibration and of insightface's single faces: parts of half of the side or more, half of them mirrored."""
    singles = [Image.open(path).convert("RGB") for path in packaged("insightface", SINGLE_FACES)]
    sources, rng, views = [*calibration_photographs(), *singles], np.random.RandomState(SEED), []
    for index in range(count):
        image = sources[index % len(sources)]
        width, height = (round(size * rng.uniform(0.5, 1)) for size in image.size)
        left, top = rng.randint(image.width - width + 1), rng.randint(image.height - height + 1)
        view = image.crop((left, top, left + width, top + height))
        views.append(view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if index % 2 else view)
    return squares(views)


def faces_in(output: np.ndarray) -> list[list[float]]:
    """Return the faces in an image: left, top, right, bottom, score and class, in pixels of the square.

    Args:
        output: of shape `(4 + classes, places)`: centers and sizes, and a score for each class.
    """
    scores, classes = output[4:].max(0), output[4:].argmax(0)
    (x, y, width, height) = output[:4]
    sides = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)
    kept: list[list[float]] = []
    for place in np.argsort(-scores):
        if scores[place] < SMALLEST_SCORE:
            break
        box = [*sides[place].tolist(), float(scores[place]), float(classes[place])]
        if box[5] in FACES and not any(_is_same(box, other) for other in kept):
            kept.append(box)
    return kept


def _is_same(box: Sequence[float], other: Sequence[float]) -> bool:
    return box[5] == other[5] and overlap(box, other) > MOST_OVERLAP
