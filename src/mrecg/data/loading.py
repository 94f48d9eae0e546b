"""The reading of many images: by worker processes, in a fixed order; unreadable ones are skipped and named."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mrecg.data.preprocessing import Crops, Preprocessing, UnreadableImage
from mrecg.data.samples import Samples
from mrecg.errors import DataError
from mrecg.preparation.calibration import CalibrationImages
from mrecg.shortage import require_memory

__all__ = [
    "MOST_SKIPPED",
    "EvaluationBatches",
    "Source",
    "draw_images",
    "first_images",
    "name_some",
]

_NAMED = 3
"""How many unreadable images an error names."""
_READ_AT_ONCE = 50
"""Images that a worker hands over at a time: 7.5 MB of pixels at 224×224."""
MOST_SKIPPED = 0.01
"""Fraction of the images that may be unreadable. A damaged file or two is normal in ImageNet-sized sets; more means a
wrong folder or format, and the accuracy would be that of other images than were asked for."""


@dataclass(frozen=True)
class Source:
    """Describe one part of a data source.

    Attributes:
        name: the source as the caller named it, for messages.
        samples: its images.
        preprocessing: of each of them.
    """

    name: str
    samples: Samples
    preprocessing: Preprocessing


class EvaluationBatches:
    """Iterate over batches of images and labels; each iteration reads anew, and only a few batches are in memory.

    Attributes:
        count: images, the unreadable ones included.
        skipped: the images that the last iteration could not read, with the reasons.

    Raises:
        StorageError: a batch does not fit into memory.
    """

    def __init__(self, source: Source, order: Sequence[int], batch_size: int, workers: int) -> None:
        self.count = len(order)
        self.skipped: tuple[str, ...] = ()
        require_memory(min(batch_size, self.count), source.preprocessing.shape)
        self._source, self._order = source, order
        self._batch_size, self._workers = batch_size, workers

    def __iter__(self) -> Iterator[tuple[Float[Tensor, "n c h w"], Int[Tensor, " n"]]]:
        """Read the batches in the order of the source.

        Raises:
            DataError: more than 1 % of the images cannot be read.
        """
        labels = self._source.samples.labels
        assert labels is not None
        tally = _Tally(self._source, len(self._order), replaced=False)
        crop = _Crop(self._source, "center", 0)
        for found in _read(crop, self._order, self._batch_size, self._workers):
            good = tally.sift(found)
            self.skipped = tuple(tally.skipped)
            if good:
                images = self._source.preprocessing.normalize(_stack(good))
                yield images, torch.tensor([labels[index] for index, _ in good])


def draw_images(
    source: Source, count: int, seed: int, crops: Crops, workers: int
) -> CalibrationImages:
    """Draw `count` images without replacement; the next in line replaces one that cannot be read.

    Raises:
        DataError: the source holds too few images, or more than 1 % of them cannot be read.
        StorageError: so many do not fit into memory.
    """
    available = len(source.samples)
    if not 0 < count <= available:
        raise DataError(
            f"The source '{source.name}' holds {available} images, got a request for {count}."
        )
    line = np.random.RandomState(seed).permutation(available).tolist()
    crop, tally = _Crop(source, crops, seed), _Tally(source, count, replaced=True)
    shape = source.preprocessing.shape
    require_memory(count, shape)
    images = torch.empty(count, *shape)
    done = 0
    while done < count:
        chosen, line = line[: count - done], line[count - done :]
        if not chosen:
            raise DataError(
                f"The source '{source.name}' holds {done} readable images, got a request for {count}; "
                f"not readable: {name_some(tally.skipped)}."
            )
        for found in _read(crop, chosen, _READ_AT_ONCE, workers):
            good = tally.sift(found)
            if good:
                images[done : done + len(good)] = source.preprocessing.normalize(_stack(good))
                done += len(good)
    return CalibrationImages(images, tuple(tally.skipped), source.preprocessing.described())


def first_images(source: Source, count: int, workers: int) -> Float[Tensor, "n c h w"]:
    """Read the first `count` images, or as many as there are, without those that cannot be read.

    Raises:
        DataError: more than 1 % of them cannot be read.
        StorageError: so many do not fit into memory.
    """
    order = range(min(count, len(source.samples)))
    require_memory(len(order), source.preprocessing.shape)
    crop, tally = _Crop(source, "center", 0), _Tally(source, len(order), replaced=False)
    batches = map(tally.sift, _read(crop, order, _READ_AT_ONCE, workers))
    return torch.cat([source.preprocessing.normalize(_stack(good)) for good in batches if good])


_Found = tuple[int, NDArray[np.uint8] | str]
"""The position of an image with its pixels, or with the reason why it cannot be read."""


@dataclass(frozen=True)
class _Crop(Dataset[_Found]):
    """Decode and crop one image in a worker process; pixels travel as bytes, a quarter of the size of floats."""

    source: Source
    crops: Crops
    seed: int

    def __getitem__(self, index: int) -> _Found:
        samples, preprocessing = self.source.samples, self.source.preprocessing
        try:
            image = samples.load(index)
            if self.crops == "center":
                return index, preprocessing.center(image)
            # A generator per image: neither the order nor the number of workers changes a crop.
            return index, preprocessing.random(image, np.random.default_rng([self.seed, index]))
        except UnreadableImage as error:
            return index, str(error)


class _Tally:
    """Collect the images that cannot be read, and stop where they are too many.

    Args:
        source: of the images.
        wanted: how many images are to be read.
        replaced: whether another image is read for each that is skipped.
    """

    def __init__(self, source: Source, wanted: int, replaced: bool) -> None:
        self.skipped: list[str] = []
        self._source, self._wanted, self._replaced = source, wanted, replaced

    def sift(self, found: Sequence[_Found]) -> list[tuple[int, NDArray[np.uint8]]]:
        """Return the images that could be read.

        Raises:
            DataError: the others are more than 1 % of all that are to be read.
        """
        good = []
        for index, pixels in found:
            if isinstance(pixels, str):
                self.skipped.append(f"{self._source.samples.name(index)} ({pixels})")
            else:
                good.append((index, pixels))
        # A replacement is one more image that is read.
        read = self._wanted + (len(self.skipped) if self._replaced else 0)
        if len(self.skipped) > MOST_SKIPPED * read:
            raise DataError(
                f"More than 1 % of the {read} images to be read from '{self._source.name}' cannot be "
                f"used: {name_some(self.skipped)}; repair or remove them."
            )
        return good


def name_some(skipped: Sequence[str]) -> str:
    """Name the first of the skipped images, and count the others."""
    more = len(skipped) - _NAMED
    return ", ".join(skipped[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _stack(good: Sequence[tuple[int, NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    return np.stack([pixels for _, pixels in good])


def _read(
    crop: _Crop, order: Sequence[int], batch_size: int, workers: int
) -> Iterator[list[_Found]]:
    """Read the images at these positions, in this order, `batch_size` at a time."""
    loader: DataLoader[_Found] = DataLoader(
        crop,
        batch_size,
        sampler=order,
        num_workers=min(workers, math.ceil(len(order) / batch_size)),
        collate_fn=list,
        generator=torch.Generator(),  # the default draws a seed from torch's global generator
    )
    try:
        yield from loader
    except RuntimeError as error:
        if not workers:
            raise
        # A worker died, mostly because the memory was full.
        raise DataError(
            f"Reading '{crop.source.name}' failed: {str(error).splitlines()[0].rstrip('.')}; "
            "try fewer workers."
        ) from error
