"""Fashion-MNIST (Xiao et al., 2017): 60,000 + 10,000 gray images of 28×28 pixels in ten classes."""

import gzip
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mrecg.data.preprocessing import Preprocessing
from mrecg.errors import DataError, reason_of

__all__ = [
    "DEBIAN_FOLDER",
    "MEAN",
    "PREPROCESSING",
    "STD",
    "FashionMnist",
    "download",
    "folder_of_download",
    "load_split",
    "normalize",
    "read_split",
]

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
MEAN = 0.2860
STD = 0.3530
PREPROCESSING = Preprocessing(28, 28, 1, (MEAN,), (STD,))

_PREFIX = {"train": "train", "test": "t10k"}
_IDX_UNSIGNED_BYTE = 8


@dataclass(frozen=True)
class FashionMnist:
    """Hold one split as images by position.

    Attributes:
        split: its name.
        pixels: bytes of shape `n h w`.
        labels: 0 to 9.
    """

    split: str
    pixels: NDArray[np.uint8]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        """Name the split and the position."""
        return f"Fashion-MNIST {self.split} image {index}"

    def load(self, index: int) -> Image.Image:
        """Return the gray image."""
        return Image.fromarray(self.pixels[index])


def normalize(pixels: NDArray[np.uint8]) -> Float[Tensor, "n 1 h w"]:
    """Scale bytes of shape `n h w` to zero mean and unit variance, as the float networks were trained."""
    scaled = torch.from_numpy(pixels.astype(np.float32)).unsqueeze(1) / 255
    return (scaled - MEAN) / STD


def load_split(
    split: Literal["train", "test"], folder: Path = DEBIAN_FOLDER
) -> tuple[Float[Tensor, "n 1 h w"], Int[Tensor, " n"]]:
    """Read the normalized images and the labels of one split.

    Raises:
        DataError: as `read_split`.
    """
    samples = read_split(split, folder)
    return normalize(samples.pixels), torch.tensor(samples.labels)


def read_split(split: Literal["train", "test"], folder: Path = DEBIAN_FOLDER) -> FashionMnist:
    """Read one split as it was published.

    Args:
        split: `train` (60,000 images) or `test` (10,000).
        folder: holds the four IDX files, gzipped or not, under their original names; the default is
            where Debian's package `dataset-fashion-mnist` puts them.

    Raises:
        DataError: a file is missing, is no IDX file, or images and labels do not match.
    """
    images = _read_idx(folder, f"{_PREFIX[split]}-images-idx3-ubyte", dimensions=3)
    labels = _read_idx(folder, f"{_PREFIX[split]}-labels-idx1-ubyte", dimensions=1)
    if len(images) != len(labels):
        raise DataError(
            f"Fashion-MNIST in {folder} holds {len(images)} {split} images but {len(labels)} labels."
        )
    return FashionMnist(split, images, labels.tolist())


def download(folder: Path) -> Path:
    """Fetch the four files through torchvision, all or none, and return the folder that holds them.

    Raises:
        DataError: torchvision is not installed, or the download fails.
    """
    target = folder_of_download(folder)
    if target.is_dir():
        return target
    try:
        from torchvision.datasets import FashionMNIST
    except (ImportError, RuntimeError) as error:
        raise DataError(
            f"Downloading Fashion-MNIST needs torchvision, which cannot be imported: {error}."
        ) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # torchvision takes any files of these names for whole ones.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".mrecg-") as draft:
            FashionMNIST(draft, download=True)
            folder_of_download(Path(draft)).parent.replace(target.parent)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"Fashion-MNIST cannot be downloaded to {folder}: {reason_of(error)}."
        ) from error
    return target


def folder_of_download(folder: Path) -> Path:
    """Return where in a folder torchvision puts the files."""
    return folder / "FashionMNIST" / "raw"


def _read_idx(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    """Read the array in an IDX file: two zero bytes, a type byte, the rank, big-endian sizes, data."""
    candidates = [folder / f"{name}.gz", folder / name]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise DataError(
            f"Fashion-MNIST has no file {name}[.gz] in {folder}; install Debian's package "
            "dataset-fashion-mnist or name a folder that holds the four IDX files."
        )
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"The file {path} cannot be read: {reason_of(error)}.") from error
    header = 4 + 4 * dimensions
    if len(raw) < header or raw[:4] != bytes([0, 0, _IDX_UNSIGNED_BYTE, dimensions]):
        raise DataError(f"The file {path} is not an IDX file of {dimensions}-dimensional bytes.")
    shape = tuple(np.frombuffer(raw, ">i4", dimensions, offset=4).tolist())
    values = np.frombuffer(raw, np.uint8, offset=header)
    if values.size != int(np.prod(shape)):
        raise DataError(f"The file {path} promises {shape} bytes but holds {values.size}.")
    return values.reshape(shape)
