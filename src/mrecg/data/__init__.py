"""Images by name: what the command line calls a data source.

demo                            the packaged slice of Fashion-MNIST
fashion-mnist[:FOLDER]          the whole of it, from Debian's folder or one with the IDX files
fashion-mnist-download:FOLDER   the same, fetched into FOLDER through torchvision where there is a network
folder:PATH                     image files, in class folders or flat
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrecg.data import fashion_mnist
from mrecg.data.folders import Preprocessing, find_images, load_folder
from mrecg.errors import DataError, did_you_mean

__all__ = ["DEMO_FOLDER", "Preprocessing", "calibration_images", "evaluation_batches"]

DEMO_FOLDER = Path(__file__).parent.parent / "demo" / "fashion-mnist"

IMAGENET = Preprocessing()

_SOURCES = ("demo", "fashion-mnist", "fashion-mnist-download", "folder")


def calibration_images(
    source: str, count: int, seed: int, preprocessing: Preprocessing = IMAGENET
) -> Tensor:
    """`count` images drawn without replacement from the training part of `source`.

    Raises:
        DataError: the source is not known, cannot be read, or holds fewer images.
    """
    kind, folder = _parse(source)
    rng = np.random.RandomState(seed)
    if kind == "folder":
        files, _ = find_images(folder)
        chosen = rng.permutation(len(files))[: _at_most(count, len(files), source)]
        return load_folder([files[i] for i in chosen], None, preprocessing)[0]
    images, _ = fashion_mnist.load_split("train", folder)
    chosen = rng.permutation(len(images))[: _at_most(count, len(images), source)]
    return images[torch.from_numpy(chosen)]


def evaluation_batches(
    source: str, batch_size: int = 250, preprocessing: Preprocessing = IMAGENET
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images and labels of the test part of `source`; a folder is all test.

    Raises:
        DataError: the source is not known, cannot be read, or has no labels.
    """
    kind, folder = _parse(source)
    if kind == "folder":
        files, labels = find_images(folder)
        if labels is None:
            raise DataError(
                f"The folder {folder} has no class folders, so there is nothing to evaluate against."
            )
        for first in range(0, len(files), batch_size):
            part = slice(first, first + batch_size)
            yield load_folder(files[part], labels[part], preprocessing)
    else:
        images, targets = fashion_mnist.load_split("test", folder)
        yield from zip(images.split(batch_size), targets.split(batch_size), strict=True)


def _parse(source: str) -> tuple[str, Path]:
    kind, _, path = source.partition(":")
    if kind not in _SOURCES:
        raise DataError(f"There is no data source '{kind}'{did_you_mean(kind, _SOURCES)}.")
    if kind in ("folder", "fashion-mnist-download") and not path:
        raise DataError(f"The data source '{kind}' needs a path, such as {kind}:images.")
    if kind == "fashion-mnist-download":
        return kind, fashion_mnist.download(Path(path))
    default = {"demo": DEMO_FOLDER, "fashion-mnist": fashion_mnist.DEBIAN_FOLDER}
    return kind, Path(path) if path else default[kind]


def _at_most(count: int, available: int, source: str) -> int:
    if not 0 < count <= available:
        raise DataError(
            f"The source '{source}' holds {available} images, got a request for {count}."
        )
    return count
