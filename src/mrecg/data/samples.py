"""The interface of an image source, and the decoding of one image."""

import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image, ImageFile, UnidentifiedImageError

from mrecg.data.preprocessing import UnreadableImage
from mrecg.errors import reason_of

__all__ = ["Samples", "open_image"]

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow knows more, and one of them, EPS, starts Ghostscript; a file's name says nothing about its format."""
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
"""Pillow's modes whose conversion to RGB or gray is exact; `I;16`, `F` and CMYK give wrong colors without a word."""


@runtime_checkable
class Samples(Protocol):
    """Give images by position; worker processes get a copy, so implementations must be picklable."""

    @property
    def labels(self) -> Sequence[int] | None:
        """Return the class of every image, or `None` where there are none."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Name the image in a message."""

    def load(self, index: int) -> Image.Image:
        """Decode the image.

        Raises:
            UnreadableImage: it cannot be used.
        """


def open_image(source: Path | BytesIO) -> Image.Image:
    """Decode an image completely.

    Raises:
        UnreadableImage: a file that is damaged, no image, suspiciously large, or of a kind whose colors
            Pillow cannot convert exactly (CMYK, more than 8 bits per channel).
    """
    if isinstance(source, Path) and source.exists() and not source.is_file():
        raise UnreadableImage("no regular file")  # a pipe would be waited for
    try:
        with warnings.catch_warnings():
            # Odd metadata does not change pixels; a decompression bomb fills the memory.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=_FORMATS) as image:
                mode = f"{image.mode} with 16 bits" if _is_deep(image) else image.mode
                if mode in _MODES:
                    decoded = image.copy()
                    decoded.info.pop(
                        "transparency", None
                    )  # converting would warn, and no color changes
                    return decoded
    except UnidentifiedImageError as error:
        raise UnreadableImage("not an image") from error
    except Exception as error:  # decoders raise anything on damaged bytes
        raise UnreadableImage(reason_of(error)) from error
    raise UnreadableImage(f"mode {mode}, expected gray, palette or RGB with 8 bits per channel")


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Return whether Pillow would cut channels off to 8 bits; only what it tells its decoder says so."""
    for codec, _, _, arguments in image.tile:
        layout, *more = arguments if isinstance(arguments, tuple) else (arguments,)
        if ";16" in str(layout) or (codec.startswith("ppm") and more and more[0] > 255):
            return True
    return False
