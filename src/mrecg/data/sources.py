"""Data sources by name, as the command line takes them.

demo                            the packaged slice of Fashion-MNIST
fashion-mnist[:FOLDER]          the whole of it, from Debian's folder or one with the IDX files
fashion-mnist-download:FOLDER   the same, fetched into FOLDER through torchvision where there is a network
imagenet:PATH                   class folders in train/ (calibration) and val/ (evaluation)
folder:PATH                     image files, in class folders or flat; the same for calibration and evaluation
datasets:NAME_OR_PATH           Hugging Face `datasets`: a hub name, a folder of images or Parquet files
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from mrecg.data import fashion_mnist, folders, huggingface
from mrecg.data.loading import EvaluationBatches, Source, draw_images, first_images
from mrecg.data.preprocessing import Crops, Preprocessing
from mrecg.errors import DataError, NoLabelsError, did_you_mean
from mrecg.preparation.calibration import CalibrationImages
from mrecg.records.record import ImageSource

__all__ = [
    "DEMO_FOLDER",
    "calibration_images",
    "evaluation_batches",
    "evaluation_images",
    "own_preprocessing",
    "recorded_name",
    "remembered_source",
]

DEMO_FOLDER = Path(__file__).parent.parent / "demo" / "fashion-mnist"

IMAGENET = Preprocessing()

_NEEDS_PATH = {
    "datasets": "datasets:uoft-cs/cifar10",
    "fashion-mnist-download": "fashion-mnist-download:images",
    "folder": "folder:images",
    "imagenet": "imagenet:/data/imagenet",
}
_SOURCES = ("demo", "fashion-mnist", *_NEEDS_PATH)
_OPENED_UNASKED = ("datasets", "demo", "fashion-mnist", "folder", "imagenet")
_FASHION_MNIST = ("demo", "fashion-mnist", "fashion-mnist-download")

_Part = Literal["calibration", "evaluation"]


def calibration_images(
    source: str,
    count: int,
    seed: int,
    preprocessing: Preprocessing = IMAGENET,
    *,
    crops: Crops = "center",
    workers: int = 0,
) -> CalibrationImages:
    """Draw `count` images without replacement from the training part of `source`.

    An image that cannot be read is skipped and named, and the next one drawn replaces it.

    Args:
        source: a name from the list at the top of this module.
        count: how many.
        seed: of the choice and of random crops.
        preprocessing: of image files; Fashion-MNIST has its own.
        crops: `center` as in evaluation, or `random` as in training: parts of random size and shape,
            mirrored half of the time.
        workers: processes that decode; the images do not depend on it.

    Raises:
        DataError: the source is not known, cannot be read, holds fewer images, or more than 1 % of
            them cannot be read.
    """
    if crops not in get_args(Crops):
        raise DataError(f"There are no crops '{crops}'{did_you_mean(crops, get_args(Crops))}")
    opened = _open(source, "calibration", preprocessing)
    found = draw_images(opened, count, seed, crops, workers)
    origin = ImageSource(name=recorded_name(source), crops=crops, seed=seed)
    return replace(found, source=origin)


def evaluation_batches(
    source: str,
    batch_size: int = 250,
    preprocessing: Preprocessing = IMAGENET,
    *,
    count: int | None = None,
    workers: int = 0,
) -> EvaluationBatches:
    """Prepare to read the test part of `source` in batches of images and labels; all of a folder is test.

    Args:
        source: a name from the list at the top of this module.
        batch_size: images at a time; no more than a few batches are in memory.
        preprocessing: of image files; Fashion-MNIST has its own.
        count: read only so many images, spread evenly over the source; by default all.
        workers: processes that decode; the batches do not depend on it.

    Raises:
        DataError: the source is not known, cannot be read, or holds fewer images.
        NoLabelsError: the source has no labels.
    """
    opened = _open(source, "evaluation", preprocessing)
    available = len(opened.samples)
    if opened.samples.labels is None:
        raise NoLabelsError(f"The source '{source}' has no labels to evaluate against.")
    if count is not None and not 0 < count <= available:
        raise DataError(
            f"The source '{source}' holds {available} images for evaluation, got a request for {count}."
        )
    count = count or available
    # Spread evenly: sources are sorted by class, so the first `count` images would be few classes.
    order = [position * available // count for position in range(count)]
    return EvaluationBatches(opened, order, batch_size, workers)


def evaluation_images(
    source: str, count: int, preprocessing: Preprocessing = IMAGENET, *, workers: int = 0
) -> Float[Tensor, "n c h w"]:
    """Read the first `count` images of the test part of `source`, or as many as there are, without labels.

    Args:
        source: a name from the list at the top of this module.
        count: how many at most.
        preprocessing: of image files; Fashion-MNIST has its own.
        workers: processes that decode.

    Raises:
        DataError: the source is not known or cannot be read.
    """
    return first_images(_open(source, "evaluation", preprocessing), count, workers)


def own_preprocessing(source: str) -> Preprocessing | None:
    """Return the preprocessing that a source prescribes; `None` where image files can be resized at will."""
    kind = source.partition(":")[0]
    return fashion_mnist.PREPROCESSING if kind in _FASHION_MNIST else None


def recorded_name(source: str) -> str:
    """Return the name of a source as a record keeps it: with an absolute path, and without a download."""
    kind, _, path = source.partition(":")
    place = Path(path).expanduser().absolute()
    if kind == "fashion-mnist-download":
        return f"fashion-mnist:{fashion_mnist.folder_of_download(place)}"
    is_path = path and (kind != "datasets" or place.exists())
    return f"{kind}:{place}" if is_path else source


def remembered_source(source: ImageSource | None) -> str:
    """Return the name of the source that a run is evaluated on, if it can be opened without asking.

    The run may be a stranger's: nothing is fetched or written because its record says so.

    Raises:
        DataError: the record names none, one that is not there any more, or one that the network would be asked for.
    """
    if source is None:
        raise DataError(
            "The run does not say where its images come from, as it is of an earlier version or was made in Python; "
            "give --data, such as --data folder:images."
        )
    name = source.validation or source.name
    kind, _, path = name.partition(":")
    if kind not in _OPENED_UNASKED or (kind in _NEEDS_PATH and not path):
        raise DataError(
            f"The run's images are '{name}', which is not opened unasked; give --data {name} if it is what you want."
        )
    if path and not (Path(path).is_dir() or Path(path).is_file()):
        network = ", or would be fetched from the network" if kind == "datasets" else ""
        raise DataError(
            f"The run's images are '{name}', which is not on this machine{network}; name images with --data."
        )
    return name


def _open(source: str, part: _Part, preprocessing: Preprocessing) -> Source:
    """Find the images of one part of a source; none is decoded yet."""
    kind, _, path = source.partition(":")
    if kind not in _SOURCES:
        raise DataError(f"There is no data source '{kind}'{_advice(source, kind)}")
    if kind in _NEEDS_PATH and not path:
        raise DataError(f"The data source '{kind}' needs a path, such as {_NEEDS_PATH[kind]}.")
    place = Path(path).expanduser()  # a shell leaves a ~ behind a colon
    if kind == "imagenet":
        split = folders.imagenet_split(place, "train" if part == "calibration" else "val")
        return Source(source, split, preprocessing)
    if kind == "folder":
        return Source(source, folders.find_images(place), preprocessing)
    if kind == "datasets":
        return Source(
            source,
            huggingface.load_part(str(place) if place.exists() else path, part),
            preprocessing,
        )
    if kind == "fashion-mnist-download":
        folder = fashion_mnist.download(place)
    elif path:
        folder = place
    else:
        folder = DEMO_FOLDER if kind == "demo" else fashion_mnist.DEBIAN_FOLDER
    gray = fashion_mnist.read_split("train" if part == "calibration" else "test", folder)
    return Source(source, gray, fashion_mnist.PREPROCESSING)


def _advice(source: str, kind: str) -> str:
    """Return the end of a message about an unknown source, which may be a path without the kind of its source."""
    place = Path(source).expanduser()
    if not source or not place.exists():
        return did_you_mean(kind, _SOURCES)
    meant = "imagenet" if folders.has_splits(place) else "folder"
    if place.is_file():
        meant = "datasets"
    return f", but a path of that name; did you mean '{meant}:{source}'?"
