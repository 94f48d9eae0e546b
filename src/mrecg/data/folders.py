"""Images in folders: a folder per class, or a flat folder without labels."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mrecg.data.samples import open_image
from mrecg.errors import DataError

__all__ = ["ImageFiles", "find_images", "has_splits", "imagenet_split"]

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageFiles:
    """List image files and their labels.

    Attributes:
        files: their paths; strings, because ImageNet has 1.3 million.
        labels: positions of their class folders in sorted order, or `None` if there are none.
    """

    files: Sequence[str]
    labels: Sequence[int] | None

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """Return the path."""
        return self.files[index]

    def load(self, index: int) -> Image.Image:
        """Decode the image.

        Raises:
            UnreadableImage: it cannot be used.
        """
        return open_image(Path(self.files[index]))


def find_images(folder: Path) -> ImageFiles:
    """List image files in sorted order: of class folders and the folders inside of them, or of a flat folder.

    Raises:
        DataError: the folder does not exist, holds no images, holds splits, or has a class folder without images.
    """
    classes = _class_folders(folder)
    if has_splits(folder):
        raise DataError(
            f"The folder {folder} holds train/ and val/, which are no classes; did you mean imagenet:{folder}?"
        )
    if not classes:
        files = _images_in(folder, recursive=False)
        if not files:
            raise DataError(f"The folder {folder} holds no images ({', '.join(_SUFFIXES)}).")
        return ImageFiles(files, None)
    all_files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = _images_in(folder / name, recursive=True)
        if not files:
            raise DataError(
                f"The class folder {folder / name} holds no images ({', '.join(_SUFFIXES)}); remove it, because every "
                "folder counts as a class, or put its images there."
            )
        all_files += files
        labels += [label] * len(files)
    return ImageFiles(all_files, labels)


def imagenet_split(root: Path, split: str) -> ImageFiles:
    """List the images in the class folders of `root/train` or `root/val`.

    Both must have the same class folders: a label is the position of its folder in sorted order, so one more folder
    in `train` would shift the labels.

    Raises:
        DataError: a folder is missing, has no class folders, an empty one, or one that the other has not.
    """
    if not root.is_dir():
        raise DataError(f"The ImageNet folder {root} does not exist.")
    classes = {}
    for name in ("train", "val"):
        if not (root / name).is_dir():
            raise DataError(
                f"The ImageNet folder {root} has no folder {name}/, expected train/ and val/{_meant(root)}"
            )
        classes[name] = _class_folders(root / name)
        if not classes[name]:
            raise DataError(
                f"The folder {root / name} has no class folders; sort its images into one for each class."
            )
    odd = sorted(set(classes["train"]) ^ set(classes["val"]))
    if odd:
        there, not_there = ("train", "val") if odd[0] in classes["train"] else ("val", "train")
        raise DataError(
            f"The class folder '{odd[0]}' is in {root / there} but not in {root / not_there}, "
            f"expected the same classes in both ({len(odd)} differ); remove it, or add it to {root / not_there}."
        )
    return find_images(root / split)


def has_splits(folder: Path) -> bool:
    """Return whether a folder holds train/ and val/, as ImageNet's does."""
    return (folder / "train").is_dir() and (folder / "val").is_dir()


def _meant(folder: Path) -> str:
    """Return the end of a message about a folder that is not ImageNet's, but close to one that could be read."""
    if has_splits(folder.resolve().parent):
        return f"; did you mean imagenet:{folder.resolve().parent}?"
    inside = any(child.is_dir() for child in folder.iterdir())
    return f"; did you mean folder:{folder}, for class folders without splits?" if inside else "."


def _class_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"The image folder {folder} does not exist.")
    try:
        return sorted(child.name for child in folder.iterdir() if child.is_dir())
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read: {error.strerror}.") from error


def _images_in(folder: Path, recursive: bool) -> list[str]:
    found = []
    for root, folders, names in os.walk(folder):
        found += [f"{root}{os.sep}{name}" for name in names if name.lower().endswith(_SUFFIXES)]
        if not recursive:
            folders.clear()
    return sorted(found)
