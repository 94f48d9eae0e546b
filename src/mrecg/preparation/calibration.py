"""Turn calibration images in any accepted form into one checked tensor."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mrecg.config.settings import Reconstruction
from mrecg.errors import DataError
from mrecg.records.record import ImageSource

__all__ = [
    "CalibrationImages",
    "check_image_count",
    "check_images",
    "gather_images",
    "is_dataset",
]


@dataclass(frozen=True)
class CalibrationImages:
    """Images that were read for calibration.

    Attributes:
        images: as many as were asked for.
        skipped: what could not be read, with the reasons; the record of the run keeps them.
        preprocessing: how image files became these images; the record keeps it, too.
        source: where they came from; the record keeps it, too.
    """

    images: Float[Tensor, "n c h w"]
    skipped: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    source: ImageSource | None = None

    def __len__(self) -> int:
        return len(self.images)


def gather_images(
    calibration: CalibrationImages | Tensor | Iterable[Any] | Dataset[Any],
) -> Float[Tensor, "n ..."]:
    """Return all calibration images in one tensor.

    Args:
        calibration: from `mrecg.data.calibration_images`, a tensor of images, or an iterable of image tensors,
            batches, or pairs with labels. An item is one image where it comes with a single label, or has one or three
            axes; of a DataLoader that makes batches it never is, and of a Dataset with a length it always is.

    Raises:
        DataError: fewer than two images, an item that is no tensor, other shapes or types than the first,
            values that are not finite.
    """
    if isinstance(calibration, CalibrationImages):
        calibration = calibration.images
    if isinstance(calibration, Tensor):
        parts = [calibration]
    elif is_dataset(calibration):
        items = (calibration[index] for index in range(len(calibration)))  # type: ignore[index, arg-type]
        parts = [_images_of(item, index, True) for index, item in enumerate(items)]
    else:
        single = None
        if isinstance(calibration, DataLoader) and calibration.batch_sampler is not None:
            single = False
        parts = [_images_of(item, index, single) for index, item in enumerate(calibration)]  # type: ignore[arg-type]
    if sum(len(part) if part.ndim else 1 for part in parts) == 0:
        raise DataError("The calibration set is empty; give a few hundred images.")
    for index, part in enumerate(parts):
        if part.shape[1:] != parts[0].shape[1:]:
            raise DataError(
                f"Calibration item {index} has images of shape {tuple(part.shape[1:])}, "
                f"expected {tuple(parts[0].shape[1:])} as the first."
            )
        check_images(part, f"calibration item {index}")
    images = torch.cat([part.detach() for part in parts])
    if len(images) < 2:
        raise DataError(
            "The calibration set has 1 image, expected at least 2; give a few hundred images."
        )
    return images


def check_image_count(count: int, settings: Reconstruction) -> None:
    """Refuse fewer images than a batch.

    Raises:
        DataError: with what to change.
    """
    if settings.steps and count < settings.batch_size:
        raise DataError(
            f"The calibration set has {count} images, expected at least {settings.batch_size} (one batch), or lower "
            "reconstruct.batch_size; give more images."
        )


def check_images(images: Tensor, where: str) -> None:
    """Refuse what is no batch of finite float32 images.

    Raises:
        DataError: naming `where`.
    """
    if images.layout != torch.strided:
        raise DataError(f"The images in {where} are sparse, expected dense; call .to_dense().")
    if images.dtype != torch.float32:
        raise DataError(
            f"The images in {where} are {str(images.dtype).removeprefix('torch.')}, expected float32, "
            "normalised as the network was trained."
        )
    if images.ndim < 2:
        raise DataError(
            f"The images in {where} have shape {tuple(images.shape)}, expected a batch."
        )
    if not bool(torch.isfinite(images).all()):
        bad = int((~torch.isfinite(images.flatten(1)).all(1)).nonzero()[0])
        raise DataError(
            f"Image {bad} in {where} holds NaN or infinite values; remove or repair it."
        )


def is_dataset(calibration: object) -> bool:
    """Return whether images are taken by their position: a Dataset of torch with a length need not be iterable."""
    by_position = isinstance(calibration, Dataset) and not isinstance(calibration, IterableDataset)
    return by_position and hasattr(calibration, "__len__")


def _images_of(item: Any, index: int, single: bool | None) -> Tensor:
    """Return the batch that an item is, or the only image that it holds as a batch; `None` leaves it to the item."""
    image, *rest = item if isinstance(item, tuple | list) and item else (item,)
    if not isinstance(image, Tensor):
        raise DataError(
            f"Calibration item {index} is a {type(image).__name__}, "
            "expected a tensor or a pair of a tensor and labels."
        )
    if single is None:
        single = image.ndim in (1, 3) or (bool(rest) and _is_number(rest[0]))
    return image.unsqueeze(0) if single else image


def _is_number(label: object) -> bool:
    return isinstance(label, int | float) or (isinstance(label, Tensor) and label.ndim == 0)
