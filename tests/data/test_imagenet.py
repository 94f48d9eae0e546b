"""Class folders, whatever the workers; and what cannot be read is skipped, replaced and named."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mrecg
from mrecg.data import CalibrationImages, calibration_images, evaluation_batches
from mrecg.data.loading import Source, draw_images
from mrecg.data.samples import open_image
from mrecg.errors import DataError
from mrecg.paper.networks import build
from pictures import SMALL, cmyk, empty, imagenet, no_image, picture, save


def test_imagenet_folders(tmp_path: Path) -> None:
    source = f"imagenet:{imagenet(tmp_path)}"
    batches = list(evaluation_batches(source, 5, SMALL))
    assert torch.cat([labels for _, labels in batches]).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    first = SMALL.normalize(SMALL.center(Image.open(tmp_path / "val/n0/0.JPEG"))[None])
    assert torch.equal(batches[0][0][:1], first)
    drawn = calibration_images(source, 12, 0, SMALL).images
    train = [SMALL.center(Image.open(file)) for file in sorted(tmp_path.glob("train/*/*"))]
    order = np.random.RandomState(0).permutation(12)
    assert torch.equal(drawn, SMALL.normalize(np.stack(train))[torch.from_numpy(order)])
    some = evaluation_batches(source, 5, SMALL, count=3)
    assert [labels.tolist() for _, labels in some] == [[0, 1, 2]]


def test_folders_inside_of_class_folders(tmp_path: Path) -> None:
    save(tmp_path / "a" / "deep" / "deeper" / "0.png", picture(40, 40))
    save(tmp_path / "b" / "1.png", picture(40, 40))
    (tmp_path / "b" / "notes.txt").write_text("no image")
    labels = [labels.tolist() for _, labels in evaluation_batches(f"folder:{tmp_path}", 5, SMALL)]
    assert labels == [[0, 1]]


def test_imagenet_folders_that_cannot_be_used(tmp_path: Path) -> None:
    source = f"imagenet:{tmp_path / 'root'}"
    with pytest.raises(DataError, match="root does not exist"):
        calibration_images(source, 1, 0)
    root = imagenet(tmp_path / "root")
    (root / "train" / "extra").mkdir()
    with pytest.raises(DataError, match=r"'extra' is in .*train but not in .*val.*\(1 differ\)"):
        calibration_images(source, 1, 0)
    (root / "val" / "extra").mkdir()
    with pytest.raises(DataError, match=r"class folder .*extra holds no images"):
        evaluation_batches(source)
    (root / "train").rename(tmp_path / "train")
    with pytest.raises(DataError, match="no folder train/, expected train/ and val/"):
        evaluation_batches(source)
    save(root / "train" / "0.jpg", picture(8, 8))
    with pytest.raises(DataError, match="has no class folders; sort its images"):
        evaluation_batches(source)


@pytest.mark.parametrize("crops", ["center", "random"])
def test_images_do_not_depend_on_workers(crops: str, tmp_path: Path) -> None:
    source = f"imagenet:{imagenet(tmp_path, classes=2, images=50)}"
    (tmp_path / "train" / "n0" / "7.JPEG").write_bytes(b"")
    alone, helped = (
        calibration_images(source, 99, 3, SMALL, crops=crops, workers=workers)  # type: ignore[arg-type]
        for workers in (0, 2)
    )
    assert torch.equal(alone.images, helped.images)
    assert alone.skipped == helped.skipped != ()
    other = calibration_images(source, 99, 4, SMALL, crops=crops)  # type: ignore[arg-type]
    assert not torch.equal(alone.images, other.images)


def test_evaluation_does_not_depend_on_workers(tmp_path: Path) -> None:
    source = f"imagenet:{imagenet(tmp_path)}"
    alone, helped = (list(evaluation_batches(source, 5, SMALL, workers=w)) for w in (0, 2))
    assert len(alone) == len(helped) == 3
    for (images, labels), (others, other_labels) in zip(alone, helped, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)


def test_random_crops_are_of_each_image_alone(tmp_path: Path) -> None:
    """An image's crop is the same whether few or many are drawn; center crops are others."""
    source = f"imagenet:{imagenet(tmp_path)}"
    many = calibration_images(source, 12, 5, SMALL, crops="random").images
    few = calibration_images(source, 4, 5, SMALL, crops="random").images
    assert torch.equal(many[:4], few)
    assert not torch.equal(few, calibration_images(source, 4, 5, SMALL).images)


def test_reading_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    calibration_images(f"imagenet:{imagenet(tmp_path)}", 4, 0, SMALL, crops="random")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_evaluation_holds_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def spy(path: Path) -> Image.Image:
        opened.append(path)
        return open_image(path)

    monkeypatch.setattr("mrecg.data.folders.open_image", spy)
    batches = iter(evaluation_batches(f"imagenet:{imagenet(tmp_path)}", 5, SMALL))
    assert not opened
    next(batches)
    assert len(opened) == 5


def test_unknown_crops_and_interpolations() -> None:
    """In a process of its own, where annotations are not checked."""
    code = (
        "from mrecg.data import Preprocessing, calibration_images\n"
        "from mrecg.errors import DataError\n"
        "for call in (lambda: calibration_images('demo', 4, 0, crops='centre'),\n"
        "             lambda: Preprocessing(interpolation='bicubik')):\n"
        "    try: call()\n"
        "    except DataError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "There are no crops 'centre'; did you mean 'center'?",
        "There is no interpolation 'bicubik'; did you mean 'bicubic'?",
    ]


class Deadly:
    """Images whose reading kills the process."""

    labels = None

    def __len__(self) -> int:
        return 4

    def name(self, index: int) -> str:
        return str(index)

    def load(self, index: int) -> Image.Image:
        os._exit(1)


def test_a_worker_that_dies() -> None:
    with pytest.raises(DataError, match=r"Reading 'deadly' failed: .*try fewer workers"):
        draw_images(Source("deadly", Deadly(), SMALL), 4, 0, "center", workers=1)


# ---- what cannot be read


def test_unreadable_images_are_replaced_and_named(tmp_path: Path) -> None:
    for index in range(120):
        save(tmp_path / f"{index:03}.png", picture(40, 40, seed=index))
    source = f"folder:{tmp_path}"
    whole = calibration_images(source, 100, 0, SMALL)
    line = np.random.RandomState(0).permutation(120)
    bad = tmp_path / f"{line[10]:03}.png"
    cmyk(bad.with_suffix(".jpg"))
    bad.with_suffix(".jpg").rename(bad)
    found = calibration_images(source, 100, 0, SMALL)
    assert whole.skipped == ()
    assert len(found.skipped) == 1
    assert found.skipped[0].startswith(f"{bad} (mode CMYK")
    assert len(found) == 100
    assert torch.equal(found.images[:10], whole.images[:10])
    assert torch.equal(found.images[10:99], whole.images[11:100])


def test_more_than_one_percent_is_an_error(tmp_path: Path) -> None:
    imagenet(tmp_path, classes=2, images=50)
    source = f"imagenet:{tmp_path}"
    no_image(tmp_path / "val" / "n0" / "3.JPEG")
    batches = evaluation_batches(source, 10, SMALL)
    assert torch.cat([labels for _, labels in batches]).tolist() == [0] * 49 + [1] * 50
    assert batches.skipped == (f"{tmp_path}/val/n0/3.JPEG (not an image)",)
    empty(tmp_path / "val" / "n1" / "4.JPEG")
    with pytest.raises(
        DataError, match=r"More than 1 % of the 100 images .*3\.JPEG \(not an image\), .*n1"
    ):
        list(evaluation_batches(source, 10, SMALL))
    no_image(tmp_path / "train" / "n0" / "3.JPEG")
    with pytest.raises(DataError, match="holds 99 readable images, got a request for 100"):
        calibration_images(source, 100, 0, SMALL)
    for index in range(50):
        no_image(tmp_path / "train" / "n0" / f"{index}.JPEG")
    with pytest.raises(DataError, match=r"More than 1 % .* more; repair or remove them"):
        calibration_images(source, 40, 0, SMALL)


def test_a_class_without_any_readable_image_in_a_batch(tmp_path: Path) -> None:
    """A batch of nothing is left out."""
    imagenet(tmp_path, classes=2, images=50)
    no_image(tmp_path / "val" / "n0" / "0.JPEG")
    batches = list(evaluation_batches(f"imagenet:{tmp_path}", 1, SMALL))
    assert len(batches) == 99


def test_the_record_names_what_was_skipped() -> None:
    calibration = CalibrationImages(
        calibration_images("demo", 8, 0).images, ("a.jpg (not an image)",)
    )
    model = build("resnet18_small")
    quantized = mrecg.quantize(model, calibration, recipe=mrecg.preset("w8a8-rtn"))
    assert quantized.record.skipped_images == calibration.skipped
    assert quantized.record.images == 8
