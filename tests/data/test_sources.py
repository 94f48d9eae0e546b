"""Images in, counts out; and a sentence for what cannot be read."""

import copy
import gzip
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import mrecg
from mrecg.data import (
    DEMO_FOLDER,
    Preprocessing,
    calibration_images,
    evaluation_batches,
    evaluation_images,
)
from mrecg.data.fashion_mnist import download, load_split
from mrecg.data.folders import find_images
from mrecg.errors import DataError, NoLabelsError, StorageError
from mrecg.paper.networks import build


class Fixed(nn.Module):
    """Gives the same ten logits for every image: class 3 first, then 0, 1, 2, 4."""

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.tensor([8.0, 7, 6, 9, 5, 4, 3, 2, 1, 0])
        return logits.expand(len(x), 10)


def batch(labels: list[int], shape: tuple[int, ...] = (1, 4, 4)) -> tuple[Tensor, Tensor]:
    return torch.zeros(len(labels), *shape), torch.tensor(labels)


def test_counts() -> None:
    result = mrecg.evaluate(Fixed(), [batch([3, 3, 4, 9]), batch([0])])
    assert (result.count, result.correct1, result.correct5) == (5, 2, 4)
    assert result.top1 == 40
    assert result.top5 == 80


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no images"),
        ([batch([3, 10])], "label 10, expected 0 to 9"),
        ([batch([-1])], "label -1"),
        (
            [(torch.zeros(3, 1, 4, 4), torch.zeros(2).long())],
            r"3 images but labels of shape \(2,\)",
        ),
        ([(torch.full((1, 1, 4, 4), torch.nan), torch.tensor([0]))], "NaN"),
        ([(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.tensor([0]))], "uint8"),
    ],
)
def test_batches_that_cannot_be_counted(batches: list[tuple[Tensor, Tensor]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        mrecg.evaluate(Fixed(), batches)


def test_logits_that_are_no_numbers() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
    model[1].weight.data[3, 0] = torch.nan
    with pytest.raises(DataError, match="logits of image 0 in batch 1 are NaN or infinite"):
        mrecg.evaluate(model, [(torch.zeros(0, 1, 4, 4), torch.zeros(0).long()), batch([0])])


def test_a_model_in_training_is_evaluated_as_it_will_be_used_and_left_as_it_was() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.9), nn.Flatten(), nn.Linear(16, 10))
    images, labels = torch.randn(64, 1, 4, 4), torch.zeros(64).long()
    before = copy.deepcopy(model.state_dict())
    expected = mrecg.evaluate(copy.deepcopy(model).eval(), [(images, labels)])
    model[1].eval()
    assert mrecg.evaluate(model, [(images, labels)]) == expected
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_images_that_the_model_cannot_take() -> None:
    with pytest.raises(DataError, match=r"batch 0, of shape \(1, 3, 28, 28\)"):
        mrecg.evaluate(build("resnet18_small"), [batch([1], (3, 28, 28))])


def test_the_demo_slice() -> None:
    images, labels = load_split("train", DEMO_FOLDER)
    assert images.shape == (512, 1, 28, 28)
    test_images, test_labels = load_split("test", DEMO_FOLDER)
    assert test_images.shape == (2000, 1, 28, 28)
    assert sorted(set(test_labels.tolist())) == sorted(set(labels.tolist())) == list(range(10))
    assert abs(float(images.mean())) < 0.1
    assert abs(float(images.std()) - 1) < 0.1
    assert (DEMO_FOLDER / "LICENSE").is_file()


def test_fashion_mnist_is_read_as_the_networks_were_trained() -> None:
    images, labels = load_split("test", DEMO_FOLDER)
    batches = list(evaluation_batches("demo", batch_size=300))
    assert torch.equal(torch.cat([part for part, _ in batches]), images)
    assert torch.equal(torch.cat([part for _, part in batches]), labels)
    assert [len(part) for part, _ in batches] == [300] * 6 + [200]
    some = list(evaluation_batches("demo", count=4))
    assert torch.equal(some[0][0], images[::500])


def test_calibration_images_are_drawn_by_seed() -> None:
    first, again, other = (calibration_images("demo", 10, seed).images for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(DataError, match="holds 512 images, got a request for 513"):
        calibration_images("demo", 513, seed=1)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("fashion-mist", "did you mean 'fashion-mnist'"),
        ("folder", "needs a path"),
        ("folder:/nowhere", "does not exist"),
        ("fashion-mnist:/nowhere", "no file train-images"),
    ],
)
def test_sources_that_do_not_exist(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        calibration_images(source, 4, seed=0)


def test_download_needs_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(DataError, match="needs torchvision, which cannot be imported"):
        calibration_images(f"fashion-mnist-download:{tmp_path}", 4, seed=0)


def test_idx_files_without_gzip_and_damaged_ones(tmp_path: Path) -> None:
    name = "train-labels-idx1-ubyte"
    raw = gzip.decompress((DEMO_FOLDER / f"{name}.gz").read_bytes())
    images = gzip.decompress((DEMO_FOLDER / "train-images-idx3-ubyte.gz").read_bytes())
    (tmp_path / "train-images-idx3-ubyte").write_bytes(images)
    (tmp_path / name).write_bytes(raw)
    assert torch.equal(load_split("train", tmp_path)[1], load_split("train", DEMO_FOLDER)[1])
    (tmp_path / name).write_bytes(raw[:-1])
    with pytest.raises(DataError, match=r"promises \(512,\) bytes but holds 511"):
        load_split("train", tmp_path)
    (tmp_path / name).write_bytes(b"no idx")
    with pytest.raises(DataError, match="not an IDX file"):
        load_split("train", tmp_path)
    (tmp_path / name).unlink()
    packed = gzip.compress(raw)
    flipped = packed[:40] + bytes([packed[40] ^ 255]) + packed[41:]
    for contents in (b"no gzip", packed[:-20], flipped):
        (tmp_path / f"{name}.gz").write_bytes(contents)
        with pytest.raises(DataError, match="cannot be read"):
            load_split("train", tmp_path)


def picture(path: Path, size: tuple[int, int], seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_class_folders(tmp_path: Path) -> None:
    for label, name in enumerate(["cat", "dog", "eel"]):
        for index in range(label + 1):
            picture(tmp_path / name / f"{index}.png", (40 + index, 30), seed=label)
    preprocessing = Preprocessing(resize=24, crop=16)
    source = f"folder:{tmp_path}"
    batches = list(evaluation_batches(source, batch_size=4, preprocessing=preprocessing))
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 1, 2, 2, 2]
    assert batches[0][0].shape == (4, 3, 16, 16)
    assert calibration_images(source, 5, 0, preprocessing).images.shape == (5, 3, 16, 16)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        find_images(tmp_path)
    picture(tmp_path / "full" / "a.png", (8, 8))
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match=r"class folder .*void holds no images"):
        find_images(tmp_path)
    picture(tmp_path / "flat" / "a.png", (8, 8))
    with pytest.raises(NoLabelsError, match="has no labels to evaluate against"):
        evaluation_batches(f"folder:{tmp_path / 'flat'}")


@pytest.mark.parametrize("fails", [False, True])
def test_a_download_is_there_as_a_whole_or_not_at_all(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(root: str, download: bool) -> None:
        raw = Path(root) / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        (raw / "a").write_bytes(b"x")
        if fails:
            raise RuntimeError("the line broke")

    datasets = ModuleType("torchvision.datasets")
    datasets.FashionMNIST = fetch  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    if fails:
        with pytest.raises(DataError, match=r"cannot be downloaded to .*: the line broke"):
            download(tmp_path / "new")
        assert not list((tmp_path / "new").iterdir())
    else:
        assert [one.name for one in download(tmp_path / "new").iterdir()] == ["a"]
        assert [one.name for one in (tmp_path / "new").iterdir()] == ["FashionMNIST"]


def test_images_that_cannot_fit_are_refused_with_their_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mrecg.shortage._free_memory", lambda: 50_000)
    sentence = r"^{} images of 1×28×28 take {} of memory, and 48\.8 KiB are free; give fewer"
    for read, size in (
        (lambda: calibration_images("demo", 256, 1), (256, "784.0 KiB")),
        (lambda: evaluation_images("demo", 100), (100, "306.2 KiB")),
        (lambda: evaluation_batches("demo", 20), (20, "61.2 KiB")),
    ):
        with pytest.raises(StorageError, match=sentence.format(*size)):
            read()
    assert len(calibration_images("demo", 12, 1)) == 12
