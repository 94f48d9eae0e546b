"""Pixel for pixel as the field evaluates; and what cannot be opened says why."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from mrecg.data import Preprocessing
from mrecg.data.preprocessing import UnreadableImage, random_box
from mrecg.data.samples import open_image
from mrecg.errors import DataError
from pictures import (
    SMALL,
    bomb,
    cmyk,
    empty,
    float_tiff,
    no_image,
    picture,
    sixteen_bits,
    smaller_bomb,
    truncated,
)

SIZES = [(256, 256), (257, 300), (333, 259), (225, 900), (50, 40), (1, 30), (300, 224)]
MODES = ["RGB", "L", "P", "RGBA", "LA", "1"]


UNREADABLE = [
    (truncated, "truncated"),
    (cmyk, "mode CMYK"),
    (sixteen_bits, "mode I;16"),
    (float_tiff, "mode F"),
    (no_image, "not an image"),
    (empty, "not an image"),
    (bomb, "pixels"),
    (smaller_bomb, "pixels"),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_center_crops_equal_torchvision(
    size: tuple[int, int], mode: str, transforms: ModuleType
) -> None:
    image = picture(*size, mode)
    for settings in (
        Preprocessing(),
        Preprocessing(235, 224, interpolation="bicubic"),
        Preprocessing(30, 33, 1, (0.4,), (0.2,)),
    ):
        interpolation = transforms.InterpolationMode(settings.interpolation)
        theirs = transforms.Compose(
            [
                transforms.Resize(settings.resize, interpolation),
                transforms.CenterCrop(settings.crop),
                transforms.ToTensor(),
                transforms.Normalize(settings.mean, settings.std),
            ]
        )
        ours = settings.normalize(settings.center(image)[None])[0]
        assert torch.equal(ours, theirs(image.convert("L" if settings.channels == 1 else "RGB")))


class _TorchGenerator(np.random.Generator):
    """Draws as torchvision draws, from torch's global generator."""

    def uniform(self, low: float, high: float) -> float:  # type: ignore[override]
        return torch.empty(1).uniform_(low, high).item()

    def integers(self, low: int, high: int) -> int:  # type: ignore[override]
        return int(torch.randint(low, high, (1,)))

    def random(self) -> float:  # type: ignore[override]
        return torch.rand(1).item()


def test_random_crops_equal_torchvision(transforms: ModuleType) -> None:
    """Given the same random numbers, of thin images too, where ten tries fail."""
    theirs = transforms.Compose(
        [transforms.RandomResizedCrop(32), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    )
    settings = Preprocessing(36, 32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    for seed, size in enumerate([(80, 60), (33, 90), (200, 7), (5, 150)] * 6):
        image = picture(*size, seed=seed)
        with torch.random.fork_rng():
            torch.random.default_generator.manual_seed(seed)
            expected = theirs(image)
            torch.random.default_generator.manual_seed(seed)
            pixels = settings.random(image, _TorchGenerator(np.random.PCG64()))
        assert torch.equal(settings.normalize(pixels[None])[0], expected)


def test_a_center_crop_by_hand() -> None:
    """Without resizing: the centre of the image, scaled and normalised."""
    image = picture(20, 16)
    settings = Preprocessing(resize=16, crop=8)
    pixels = np.asarray(image, dtype=np.float64)[4:12, 6:14] / 255
    expected = (pixels - np.array(settings.mean)) / np.array(settings.std)
    ours = settings.normalize(settings.center(image)[None])[0]
    torch.testing.assert_close(ours, torch.from_numpy(expected).permute(2, 0, 1).float())


@pytest.mark.parametrize(
    ("size", "resized", "offset"),
    [
        ((40, 57), (32, 45), (1, 8)),  # 45.6 truncated; an offset of 7.5 rounded to the even 8
        ((59, 40), (47, 32), (8, 1)),  # 47.2; 8.5 rounded to the even 8
        ((40, 40), (32, 32), (1, 1)),
    ],
)
def test_sides_are_truncated_and_offsets_rounded(
    size: tuple[int, int], resized: tuple[int, int], offset: tuple[int, int]
) -> None:
    image = picture(*size)
    whole = np.asarray(image.resize(resized, Image.Resampling.BILINEAR))
    left, top = offset
    expected = whole[top : top + 30, left : left + 30]
    assert np.array_equal(Preprocessing(32, 30).center(image), expected)


def test_a_crop_larger_than_the_image_has_a_black_border() -> None:
    pixels = Preprocessing(resize=8, crop=11).center(Image.new("RGB", (8, 8), "white"))
    assert (pixels[1:9, 1:9] == 255).all()
    assert pixels.astype(int).sum() == 8 * 8 * 3 * 255


def test_random_boxes_are_of_the_promised_size_and_shape() -> None:
    generator = np.random.default_rng(0)
    boxes = np.array([random_box(400, 300, generator) for _ in range(2000)])
    left, top, width, height = boxes.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + width <= 400).all()
    assert (top + height <= 300).all()
    assert len(set(left)) > 100  # anywhere, not in a corner
    assert len(set(top)) > 100
    share = width * height / (400 * 300)
    assert 0.075 < share.min() < 0.1
    assert share.max() > 0.9
    ratio = width / height
    assert ((ratio > 0.72) & (ratio < 1.39)).all()
    assert abs(np.log(ratio).mean()) < 0.05  # upright as often as wide
    assert random_box(1000, 10, generator) == (493, 0, 13, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": 0}, "expected at least 1"),
        ({"channels": 2}, "1 or 3 channels"),
        ({"channels": 1}, "do not fit 1 channels"),
        ({"std": (1.0, 0.0, 1.0)}, "positive values of std"),
    ],
)
def test_preprocessing_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preprocessing(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "reason"), UNREADABLE, ids=lambda item: getattr(item, "__name__", "-")
)
def test_what_cannot_be_opened_says_why(make: object, reason: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.jpg" if make in (truncated, cmyk) else "image.png")
    assert callable(make)
    make(path)
    with pytest.raises(UnreadableImage, match=reason):
        open_image(path)


def test_images_too_thin_to_resize() -> None:
    with pytest.raises(UnreadableImage, match="1×20000 pixels are too thin"):
        Preprocessing().center(Image.new("L", (1, 20_000)))


@pytest.mark.parametrize(
    ("mode", "suffix"), [("P", "gif"), ("P", "png"), ("RGBA", "png"), ("L", "jpg")]
)
def test_kinds_of_files_that_are_read(mode: str, suffix: str, tmp_path: Path) -> None:
    image = picture(40, 40, mode)
    path = tmp_path / f"image.{suffix}"
    image.save(
        path, **({"transparency": bytes(range(256))} if (mode, suffix) == ("P", "png") else {})
    )
    assert SMALL.center(open_image(path)).shape == (32, 32, 3)
