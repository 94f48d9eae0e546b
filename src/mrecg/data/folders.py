"""Images in folders: a folder per class, or a flat folder without labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mrecg.errors import DataError

__all__ = ["Preprocessing", "find_images", "load_folder"]

_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})


class Preprocessing(NamedTuple):
    """How an image file becomes a tensor; the defaults are those of ImageNet networks.

    Attributes:
        resize: length of the shorter side before cropping.
        crop: side of the square cut out of the centre.
        channels: 3 for colour, 1 for grey.
        mean, deviation: per channel, of pixels between 0 and 1.
    """

    resize: int = 256
    crop: int = 224
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    deviation: tuple[float, ...] = (0.229, 0.224, 0.225)


def find_images(folder: Path) -> tuple[list[Path], list[int] | None]:
    """Image files in sorted order and their labels: the position of their class folder, or `None` if there is none.

    Raises:
        DataError: the folder does not exist, holds no images, or has a class folder without any.
    """
    if not folder.is_dir():
        raise DataError(f"The image folder {folder} does not exist.")
    classes = sorted(child for child in folder.iterdir() if child.is_dir())
    if not classes:
        files = _images_in(folder)
        if not files:
            raise DataError(
                f"The folder {folder} holds no images ({', '.join(sorted(_SUFFIXES))})."
            )
        return files, None
    files, labels = [], []
    for label, class_folder in enumerate(classes):
        found = _images_in(class_folder)
        if not found:
            raise DataError(f"The class folder {class_folder} holds no images.")
        files += found
        labels += [label] * len(found)
    return files, labels


def load_folder(
    files: Sequence[Path], labels: Sequence[int] | None, preprocessing: Preprocessing
) -> tuple[Float[Tensor, "n c h w"], Int[Tensor, " n"]]:
    """Decoded, cropped and normalised images, and their labels (−1 where there are none).

    Raises:
        DataError: a file is no readable image; the message names it.
    """
    images = torch.stack([_load(path, preprocessing) for path in files])
    return images, torch.tensor([-1] * len(files) if labels is None else list(labels))


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)


def _load(path: Path, preprocessing: Preprocessing) -> Float[Tensor, "c h w"]:
    resize, crop, channels, mean, deviation = preprocessing
    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if channels == 1 else "RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"The image {path} cannot be read: {error}.") from error
    factor = resize / min(image.size)
    width, height = (max(resize, round(side * factor)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - crop) / 2), round((height - crop) / 2)
    image = image.crop((left, top, left + crop, top + crop))
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).view(crop, crop, channels)
    return ((pixels - torch.tensor(mean)) / torch.tensor(deviation)).permute(2, 0, 1).contiguous()
