"""Datasets that Hugging Face's `datasets` reads: a hub name, a folder of images or Parquet files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from mrecg.data.preprocessing import UnreadableImage
from mrecg.data.samples import open_image
from mrecg.errors import DataError, NoLabelsError

__all__ = ["EncodedImages", "load_part"]

_SPLITS = {"calibration": ("train",), "evaluation": ("validation", "val", "test")}


@dataclass(frozen=True)
class EncodedImages:
    """Hold one split with its images still encoded.

    Attributes:
        split: its name, for messages.
        rows: a dataset that gives `bytes` and `path` of each image.
        column: the column that holds the images.
        labels: the classes, or `None` if there is no such column.
    """

    split: str
    rows: Any
    column: str
    labels: Sequence[int] | None

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """Name the split, the position, and the path where the dataset knows it."""
        path = self._row(index).get("path")
        return f"{self.split}[{index}]" + (f" {path}" if path else "")

    def load(self, index: int) -> Image.Image:
        """Decode the image.

        Raises:
            UnreadableImage: it cannot be used.
        """
        row = self._row(index)
        if row.get("bytes") is not None:
            return open_image(BytesIO(row["bytes"]))
        if row.get("path"):
            return open_image(Path(row["path"]))
        raise UnreadableImage("no bytes and no path")

    def _row(self, index: int) -> Mapping[str, Any]:
        return self.rows[index][self.column] or {}


def load_part(name: str, part: Literal["calibration", "evaluation"]) -> EncodedImages:
    """Load the split for calibration (`train`) or evaluation (`validation`, `val` or `test`).

    Args:
        name: a hub name, a Parquet file, a folder of images or of Parquet files, or one that
            `save_to_disk` wrote.
        part: what the images are for.

    Raises:
        DataError: `datasets` is not installed, the dataset cannot be loaded, has no such split, or no
            column of images.
        NoLabelsError: there is no split to evaluate on.
    """
    splits = _load(name)
    wanted = _SPLITS[part]
    split = next((split for split in wanted if split in splits), None)
    if split is None:
        kind = DataError if part == "calibration" else NoLabelsError
        raise kind(
            f"The dataset {name} has no split {' or '.join(wanted)} for {part}, only {', '.join(splits)}."
        )
    return _encoded(splits[split], split, name)


def _load(name: str) -> Mapping[str, Any]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"The source datasets:{name} needs the package datasets; install mrecg[datasets]."
        ) from error
    path = Path(name)
    try:
        if (path / "dataset_dict.json").is_file():
            return dict(datasets.load_from_disk(name))
        if path.suffix == ".parquet":
            return dict(datasets.load_dataset("parquet", data_files=name))
        return dict(datasets.load_dataset(name))
    except Exception as error:  # the package raises anything, from the network or the files
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"The dataset {name} cannot be loaded: {reason}.") from error


def _encoded(dataset: Any, split: str, name: str) -> EncodedImages:
    from datasets import ClassLabel
    from datasets import Image as ImageFeature

    features = dataset.features
    column = next((key for key, kind in features.items() if isinstance(kind, ImageFeature)), None)
    if column is None and "image" in features:
        column = "image"  # Parquet files written without the types of `datasets`
    if column is None:
        raise DataError(f"The dataset {name} has no column of images, only {', '.join(features)}.")
    try:
        encoded = dataset.cast_column(column, ImageFeature(decode=False)).select_columns([column])
    except Exception as error:  # Arrow raises its own
        raise DataError(
            f"The column '{column}' of the dataset {name} holds no encoded images, "
            f"its type is {features[column]}."
        ) from error
    classes = [key for key, kind in features.items() if isinstance(kind, ClassLabel)]
    label = classes[0] if classes else "label" if "label" in features else None
    labels = None if label is None else list(dataset[label])
    odd = [value for value in labels or () if not isinstance(value, int)]
    if odd:
        raise DataError(
            f"The column '{label}' of the dataset {name} holds {odd[0]!r}, expected class numbers."
        )
    return EncodedImages(split, encoded, column, labels)
