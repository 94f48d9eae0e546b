"""Hugging Face `datasets`: Parquet files and folders of images."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mrecg.data import calibration_images, evaluation_batches
from mrecg.errors import DataError, NoLabelsError
from pictures import (
    SMALL,
    imagenet,
    picture,
)


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    datasets = pytest.importorskip("datasets")
    for name in ("HF_DATASETS_CACHE", "HF_MODULES_CACHE"):
        monkeypatch.setattr(datasets.config, name, str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    classes = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({"label": classes, "picture": datasets.Image()})
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "validation"):
        pictures = [picture(40, 44, seed=seed) for seed in range(6)]
        columns = {"label": [0, 1, 1, 0, 1, 0], "picture": pictures}
        part = datasets.Dataset.from_dict(columns, features=features)
        part.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder


def test_parquet_files(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = f"datasets:{parquet}"
    pixels = [SMALL.center(picture(40, 44, seed=seed)) for seed in range(6)]
    expected = SMALL.normalize(np.stack(pixels))
    ((images, labels),) = evaluation_batches(source, 10, SMALL, workers=2)
    assert torch.equal(images, expected)
    assert labels.tolist() == [0, 1, 1, 0, 1, 0]
    order = torch.from_numpy(np.random.RandomState(0).permutation(6))
    assert torch.equal(calibration_images(source, 6, 0, SMALL).images, expected[order])
    one = f"{source}/train-00000-of-00001.parquet"
    assert len(calibration_images(one, 6, 0, SMALL)) == 6
    monkeypatch.setenv("HOME", str(parquet.parent))  # a shell leaves a ~ behind a colon
    assert len(calibration_images(f"datasets:~/{parquet.name}", 6, 0, SMALL)) == 6
    with pytest.raises(NoLabelsError, match="no split validation or val or test"):
        evaluation_batches(one)


def test_parquet_files_without_types_and_with_damaged_images(parquet: Path) -> None:
    pandas = pytest.importorskip("pandas")
    buffer = io.BytesIO()
    picture(40, 40).save(buffer, format="PNG")
    path = parquet / "plain.parquet"
    rows = [{"image": {"bytes": buffer.getvalue(), "path": "a.png"}}] * 100
    rows.append({"image": {"bytes": b"no image", "path": "b.png"}})
    pandas.DataFrame(rows).to_parquet(path)
    found = calibration_images(f"datasets:{path}", 100, 1, SMALL)
    assert set(found.skipped) <= {"train[100] b.png (not an image)"}
    with pytest.raises(DataError, match="holds 100 readable images, got a request for 101"):
        calibration_images(f"datasets:{path}", 101, 1, SMALL)
    pandas.DataFrame({"image": [1, 2], "text": ["a", "b"]}).to_parquet(path)
    with pytest.raises(DataError, match=r"'image' of the dataset .* holds no encoded images"):
        calibration_images(f"datasets:{path}", 1, 1)
    pandas.DataFrame({"image": [rows[0]["image"]], "label": ["cat"]}).to_parquet(path)
    with pytest.raises(DataError, match=r"'label' of the dataset .* holds 'cat', expected class"):
        calibration_images(f"datasets:{path}", 1, 1)
    pandas.DataFrame({"text": ["a", "b"]}).to_parquet(path)
    with pytest.raises(DataError, match="no column of images, only text"):
        calibration_images(f"datasets:{path}", 1, 1)


def test_a_folder_of_images_and_what_is_no_dataset(parquet: Path, tmp_path: Path) -> None:
    imagenet(tmp_path / "root", classes=2, images=2)
    ((images, labels),) = evaluation_batches(f"datasets:{tmp_path / 'root'}", 10, SMALL)
    ours = next(iter(evaluation_batches(f"imagenet:{tmp_path / 'root'}", 10, SMALL)))
    assert torch.equal(images, ours[0])
    assert torch.equal(labels, ours[1])
    with pytest.raises(DataError, match="absent cannot be loaded"):
        calibration_images(f"datasets:{tmp_path / 'absent'}", 1, 0)


def test_datasets_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"install mrecg\[datasets\]"):
        calibration_images("datasets:cifar10", 1, 0)
