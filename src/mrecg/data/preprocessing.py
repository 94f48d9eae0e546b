"""Preprocessing of images, equal to torchvision's transforms on PIL images bit for bit."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from mrecg.config.yaml_files import first_problem
from mrecg.errors import DataError, did_you_mean

__all__ = ["Crops", "Preprocessing", "UnreadableImage", "random_box"]

Crops = Literal["center", "random"]
Interpolation = Literal["bilinear", "bicubic"]

_MOST_PIXELS = 2**27
"""Limit after resizing: an image one pixel wide and 60,000 high would become one of 12 GB."""
_TRIES = 10
"""As in torchvision; its results depend on the number."""


class UnreadableImage(Exception):  # noqa: N818 -- no mistake of the caller: it is skipped and counted
    """Report one image that cannot be used, with the reason."""


@dataclass(frozen=True)
class Preprocessing:
    """Describe how an image becomes a tensor; the defaults are those of ImageNet networks.

    Attributes:
        resize: length of the shorter side before cropping.
        crop: side of the square cut out.
        channels: 3 for color, 1 for gray.
        mean, std: of each channel, of pixels between 0 and 1.
        interpolation: of the resizing, with Pillow's antialiasing.

    Raises:
        DataError: a size is not positive, channels, mean and std do not fit together, or the
            interpolation is not known.
    """

    resize: int = 256
    crop: int = 224
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if min(self.resize, self.crop) < 1:
            raise DataError(
                f"Images cannot be resized to {self.resize} and cropped to {self.crop} pixels, "
                "expected at least 1."
            )
        if self.channels not in (1, 3):
            raise DataError(f"Images have 1 or 3 channels, got a request for {self.channels}.")
        if {len(self.mean), len(self.std)} != {self.channels} or min(self.std) <= 0:
            raise DataError(
                f"The mean {self.mean} and the std {self.std} do not fit "
                f"{self.channels} channels, expected one value for each and positive values of std."
            )

        known = get_args(Interpolation)
        if self.interpolation not in known:
            raise DataError(
                f"There is no interpolation '{self.interpolation}'{did_you_mean(self.interpolation, known)}"
            )

    def described(self) -> dict[str, Any]:
        """Return the fields for a record, of types that survive JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_description(cls, fields: Mapping[str, Any]) -> "Preprocessing":
        """Restore a preprocessing from what `described` returned.

        Raises:
            DataError: a field is of another kind.
        """
        try:
            return TypeAdapter(cls).validate_python(dict(fields))
        except ValidationError as error:
            name, reason = first_problem(error)
            raise DataError(f"The preprocessing has a bad value for '{name}': {reason}.") from error

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape of an image: channels, height, width."""
        return self.channels, self.crop, self.crop

    def resized(self, crop: int) -> "Preprocessing":
        """Return the same for crops of another side, cut from an equal fraction of the image."""
        return replace(self, crop=crop, resize=round(crop * self.resize / self.crop))

    def center(self, image: Image.Image) -> UInt8[np.ndarray, "h w c"]:
        """Cut the center out of the image after resizing its shorter side; black where it is smaller than the crop.

        Equal to torchvision's `Resize(resize)`, `CenterCrop(crop)`.

        Raises:
            UnreadableImage: the image is so thin that resizing it would take gigabytes.
        """
        short, long = min(image.size), max(image.size)
        # torchvision truncates the longer side; rounding would give other pixels for half of the aspect ratios.
        width, height = (
            self.resize if side == short else int(self.resize * long / short) for side in image.size
        )
        if width * height > _MOST_PIXELS:
            raise UnreadableImage(f"{image.width}×{image.height} pixels are too thin to resize")
        resized = self._mode(image).resize((width, height), self._filter)
        return self._pixels(
            _cut(resized, _offset(width, self.crop), _offset(height, self.crop), self.crop)
        )

    def random(
        self, image: Image.Image, generator: np.random.Generator
    ) -> UInt8[np.ndarray, "h w c"]:
        """Cut a random part out of the image, resize it to the crop, and mirror it half of the time.

        Equal to torchvision's `RandomResizedCrop(crop)`, `RandomHorizontalFlip()`.
        """
        left, top, width, height = random_box(image.width, image.height, generator)
        part = self._mode(image).crop((left, top, left + width, top + height))
        part = part.resize((self.crop, self.crop), self._filter)
        if generator.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self._pixels(part)

    def normalize(self, pixels: UInt8[np.ndarray, "n h w c"]) -> Float[Tensor, "n c h w"]:
        """Scale to [0, 1] and normalize each channel, equal to torchvision's `ToTensor()`, `Normalize(mean, std)`."""
        scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(255)
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        return scaled.sub_(mean).div_(std)

    @property
    def _filter(self) -> Image.Resampling:
        return Image.Resampling[self.interpolation.upper()]

    def _mode(self, image: Image.Image) -> Image.Image:
        return image.convert("L" if self.channels == 1 else "RGB")

    def _pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        return np.array(image, dtype=np.uint8).reshape(self.crop, self.crop, self.channels)


def random_box(
    width: int, height: int, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw left, top, width and height of a part: 8 to 100 % of the area, sides 3:4 to 4:3 (Szegedy et al., 2015).

    The algorithm of torchvision's `RandomResizedCrop`: ten tries, then the largest central part of an allowed shape.
    """
    narrowest, widest = 3 / 4, 4 / 3
    for _ in range(_TRIES):
        area = width * height * generator.uniform(0.08, 1)
        ratio = math.exp(generator.uniform(math.log(narrowest), math.log(widest)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(generator.integers(0, height - h + 1))
            return int(generator.integers(0, width - w + 1)), top, w, h
    w, h = min(width, round(height * widest)), min(height, round(width / narrowest))
    return (width - w) // 2, (height - h) // 2, w, h


def _offset(side: int, crop: int) -> int:
    """Return where the center begins; negative where the image is smaller and gets a border."""
    # As torchvision: half to even where it cuts, downwards where it pads.
    return round((side - crop) / 2) if side >= crop else -((crop - side) // 2)


def _cut(image: Image.Image, left: int, top: int, side: int) -> Image.Image:
    return image.crop((left, top, left + side, top + side))
