"""Pictures for the tests, and files that are none."""

import io
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from mrecg.data import Preprocessing

SMALL = Preprocessing(resize=36, crop=32)


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Noise on a slope: every pixel matters, and the crop's place too."""
    noise = np.random.default_rng(seed).integers(0, 128, (height, width, 3))
    slope = np.linspace(0, 127, width)[None, :, None] * np.linspace(0, 1, height)[:, None, None]
    image = Image.fromarray((noise + slope).astype(np.uint8))
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image.convert(mode)


def save(path: Path, image: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def imagenet(root: Path, classes: int = 3, images: int = 4) -> Path:
    for split in ("train", "val"):
        for label in range(classes):
            for index in range(images):
                size = (40 + 3 * index, 50 - 2 * label)
                seed = 100 * label + index + (1000 if split == "val" else 0)
                save(root / split / f"n{label}" / f"{index}.JPEG", picture(*size, seed=seed))
    return root


def truncated(path: Path) -> None:
    save(path, picture(64, 64))
    path.write_bytes(path.read_bytes()[:-900])


def cmyk(path: Path) -> None:
    save(path, picture(20, 20).convert("CMYK"))


def sixteen_bits(path: Path) -> None:
    image = Image.fromarray(np.full((20, 20), 40_000, dtype=np.uint16))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG")


def no_image(path: Path) -> None:
    path.write_bytes(b"no picture")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def bomb(path: Path, side: int = 40_000) -> None:
    """A PNG of a few bytes that promises `side` × `side` pixels."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, format="PNG")
    raw = bytearray(buffer.getvalue())
    raw[16:24] = side.to_bytes(4, "big") * 2
    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    path.write_bytes(raw)


def smaller_bomb(path: Path) -> None:
    """So large that Pillow warns, and does not yet refuse."""
    bomb(path, 12_000)


def float_tiff(path: Path) -> None:
    Image.fromarray(np.ones((8, 8), dtype=np.float32)).save(path, format="TIFF")
