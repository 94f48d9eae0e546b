"""Turn calibration images in any accepted form into checked inputs: one tensor, or one for each name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mrecg.config.optimization import Reconstruction
from mrecg.errors import DataError
from mrecg.graph.inputs import ModelInputs, NamedInputs, as_inputs, each, joined
from mrecg.records.record import ImageSource

__all__ = [
    "CalibrationImages",
    "check_image_count",
    "check_images",
    "gather_inputs",
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


def gather_inputs(
    calibration: CalibrationImages | Tensor | Iterable[Any] | Dataset[Any],
) -> ModelInputs:
    """Return the inputs for all calibration images: one tensor, or one for each name.

    Args:
        calibration: from `mrecg.data.calibration_images`, a tensor of images, or an iterable of image tensors,
            batches, or pairs with labels. An item is one image where it comes with a single label, or has one or three
            axes; of a DataLoader that makes batches it never is, and of a Dataset with a length it always is. For a network
            of several inputs, dictionaries of batches by the names of its forward's arguments take the place of tensors.

    Raises:
        DataError: fewer than two images, an item that is no tensor and no such dictionary, other names, shapes or types than
            the first, values that are not finite.
    """
    parts = _parts(calibration)
    if sum(len(part) if not isinstance(part, Tensor) or part.ndim else 1 for part in parts) == 0:
        raise DataError("The calibration set is empty; give a few hundred images.")
    first = _by_name(parts[0])
    for index, part in enumerate(parts):
        given = _by_name(part)
        if given.keys() != first.keys():
            raise DataError(
                f"Calibration item {index} has {_named(given)}, expected {_named(first)} as the first."
            )
        for name, one in given.items():
            if one.shape[1:] != first[name].shape[1:]:
                what = f"the input '{name}'" if name else "images"
                raise DataError(
                    f"Calibration item {index} has {what} of shape {tuple(one.shape[1:])}, "
                    f"expected {tuple(first[name].shape[1:])} as the first."
                )
            if one.dtype != first[name].dtype:
                what = f"the input '{name}'" if name else "images"
                given_type, wanted = (
                    str(t.dtype).removeprefix("torch.") for t in (one, first[name])
                )
                raise DataError(
                    f"Calibration item {index} has {what} of {given_type}, expected {wanted} as the first."
                )
        check_images(part, f"calibration item {index}")
    images = joined([each(part, Tensor.detach) for part in parts])
    if len(images) < 2:
        raise DataError(
            "The calibration set has 1 image, expected at least 2; give a few hundred images."
        )
    return images


def _parts(
    calibration: CalibrationImages | Tensor | Iterable[Any] | Dataset[Any],
) -> list[ModelInputs]:
    if isinstance(calibration, CalibrationImages):
        calibration = calibration.images
    if isinstance(calibration, Tensor):
        return [calibration]
    if isinstance(calibration, Mapping):
        return [as_inputs(calibration, "the calibration set")]
    if is_dataset(calibration):
        items = (calibration[index] for index in range(len(calibration)))  # type: ignore[index, arg-type]
        return [_images_of(item, index, True) for index, item in enumerate(items)]
    single = None
    if isinstance(calibration, DataLoader) and calibration.batch_sampler is not None:
        single = False
    return [_images_of(item, index, single) for index, item in enumerate(calibration)]  # type: ignore[arg-type]


def _by_name(inputs: ModelInputs) -> Mapping[str, Tensor]:
    return {"": inputs} if isinstance(inputs, Tensor) else inputs.tensors


def _named(given: Mapping[str, Tensor]) -> str:
    return "a tensor" if "" in given else f"the inputs {', '.join(given)}"


def check_image_count(count: int, settings: Reconstruction, what: str = "calibration set") -> None:
    """Refuse fewer images than a batch.

    Raises:
        DataError: with `what` has too few, and what to change.
    """
    if settings.step_count and count < settings.images_per_step:
        raise DataError(
            f"The {what} has {count} images, expected at least {settings.images_per_step} (one batch), or lower "
            "reconstruct.batch_size; give more images."
        )


def check_images(images: ModelInputs, where: str) -> None:
    """Refuse what is no batch of finite float32 images; an input with a name may hold integers or booleans, too.

    Raises:
        DataError: naming the input, and `where`.
    """
    for name, one in _by_name(images).items():
        _check_tensor(one, where, name)


def _check_tensor(images: Tensor, where: str, name: str) -> None:
    what = f"The values of '{name}' in {where}" if name else f"The images in {where}"
    if images.layout != torch.strided:
        raise DataError(f"{what} are sparse, expected dense; call .to_dense().")
    is_of_integers = not (images.is_floating_point() or images.is_complex())
    if images.dtype != torch.float32 and not (name and is_of_integers):
        raise DataError(
            f"{what} are {str(images.dtype).removeprefix('torch.')}, expected float32{' or integers' if name else ''}, "
            "normalised as the network was trained."
        )
    if images.ndim < (1 if name else 2):
        raise DataError(f"{what} have shape {tuple(images.shape)}, expected a batch.")
    finite = images.isfinite()
    if not bool(finite.all()):
        bad = int((~finite.reshape(len(images), -1).all(1)).nonzero()[0])
        values = f"NaN or infinite values in '{name}'" if name else "NaN or infinite values"
        raise DataError(f"Image {bad} in {where} holds {values}; remove or repair it.")


def is_dataset(calibration: object) -> bool:
    """Return whether images are taken by their position: a Dataset of torch with a length need not be iterable."""
    by_position = isinstance(calibration, Dataset) and not isinstance(calibration, IterableDataset)
    return by_position and hasattr(calibration, "__len__")


def _images_of(item: Any, index: int, single: bool | None) -> ModelInputs:
    """Return the batch that an item is, or the only image that it holds as a batch; `None` leaves it to the item."""
    image, *rest = item if isinstance(item, tuple | list) and item else (item,)
    if isinstance(image, Mapping):
        if single or (single is None and bool(rest) and _is_number(rest[0])):
            image = {name: _as_batch(one) for name, one in image.items()}
        named: NamedInputs = as_inputs(image, f"calibration item {index}")
        return named
    if not isinstance(image, Tensor):
        raise DataError(
            f"Calibration item {index} is a {type(image).__name__}, "
            "expected a tensor, a dictionary of tensors by the names of the network's inputs, or a pair of either and labels."
        )
    if single is None:
        single = image.ndim in (1, 3) or (bool(rest) and _is_number(rest[0]))
    return image.unsqueeze(0) if single else image


def _as_batch(one: Any) -> Any:
    """Return what an image has under a name, as a batch of one; what is no tensor and no number is refused later."""
    return torch.as_tensor(one)[None] if isinstance(one, Tensor | int | float) else one


def _is_number(label: object) -> bool:
    return isinstance(label, int | float) or (isinstance(label, Tensor) and label.ndim == 0)
