"""`mrecg quantize` measures the float network first; what is wrong with images is a sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mrecg
from command_line import Finished, small_network
from mrecg.errors import DataError
from mrecg.evaluation import below_published
from mrecg.records.evaluation import Evaluation
from pictures import (
    cmyk,
    imagenet,
    no_image,
    picture,
    save,
    sixteen_bits,
    truncated,
)


def test_a_float_network_below_its_published_accuracy() -> None:
    measured = Evaluation(1000, 700, 900)
    assert below_published(measured, None) is None
    assert below_published(measured, 70.5) is None
    warning = below_published(measured, 71.0)
    assert warning is not None
    assert "70.00 % on 1000 images is 1.00 points below the published 71.00 %" in warning


@pytest.fixture
def command(tmp_path: Path, mrecg_command: Callable[..., Finished]) -> Callable[..., Finished]:
    """The command line where a file with a small network is."""
    small_network(tmp_path, channels=3)
    return mrecg_command


NETWORK = [
    "--network",
    "small_network:net",
    "--preset",
    "w8a8-rtn",
    "--size",
    "32",
    "--images",
    "100",
]


def test_quantize_on_imagenet_folders_measures_both(
    tmp_path: Path, command: Callable[..., Finished]
) -> None:
    root = imagenet(tmp_path / "root", classes=3, images=40)
    line = np.random.RandomState(1005).permutation(120)
    label, index = divmod(int(line[0]), 40)
    names = sorted(str(number) + ".JPEG" for number in range(40))
    no_image(root / "train" / f"n{label}" / names[index])
    arguments = ["--data", f"imagenet:{root}", "--crops", "random", "--workers", "2"]
    done = command(
        "quantize",
        *NETWORK,
        *arguments,
        "--output",
        "run",
        "--evaluation-images",
        "60",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert done.stderr.index("float: top-1") < done.stderr.index("optimize:")
    assert f"skipped 1 unreadable images: {root}/train/n{label}/{names[index]}" in done.stderr
    assert len(record["skipped_images"]) == 1
    assert record["accuracy"]["float"]["count"] == record["accuracy"]["quantized"]["count"] == 60
    assert record["images"] == 100
    counted = command("evaluate", "run", *arguments[:2], "--size", "32")
    assert "of 120 images" in counted.stdout
    assert mrecg.load(tmp_path / "run").record.accuracy["float"].count == 60


def test_a_flat_folder_has_no_accuracy(tmp_path: Path, command: Callable[..., Finished]) -> None:
    for number in range(100):
        save(tmp_path / "flat" / f"{number}.png", picture(40, 40, seed=number))
    done = command("quantize", *NETWORK, "--data", "folder:flat", "--output", "run")
    assert done.returncode == 0, done.stderr
    assert "The accuracy is not measured: The source 'folder:flat' has no labels" in done.stderr
    assert "top-1" not in done.stdout
    assert mrecg.load(tmp_path / "run").record.accuracy == {}
    pytest.importorskip("onnx")
    shown = ["--evaluation-images", "20", "--json"]  # of the folder, which the run remembers
    exported = command("export", "run", "--output", "model.onnx", *shown)
    assert exported.returncode == 0, exported.stderr
    assert json.loads(exported.stdout)["images"] == 20


def test_a_run_outlasts_an_evaluation_that_fails(
    tmp_path: Path, command: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise DataError("The disk is gone.")

    monkeypatch.setattr("mrecg.evaluation.with_accuracy", fail)
    data = ["--data", f"imagenet:{imagenet(tmp_path / 'root')}", "--images", "12"]
    done = command("quantize", *NETWORK, *data, "--output", "run")
    assert done.returncode == 1
    assert "error: The disk is gone." in done.stderr
    assert mrecg.load(tmp_path / "run").record.images == 12


@pytest.mark.parametrize(
    "make",
    [truncated, cmyk, sixteen_bits, None],
    ids=lambda make: getattr(make, "__name__", "empty"),
)
def test_bad_images_are_one_sentence(
    make: object, tmp_path: Path, command: Callable[..., Finished]
) -> None:
    root = imagenet(tmp_path / "root", classes=2, images=2)
    if callable(make):
        make(root / "train" / "n0" / ("x.png" if make is sixteen_bits else "x.jpg"))
    else:
        for split in ("train", "val"):
            (root / split / "n9").mkdir()
    data = ["--data", f"imagenet:{root}", "--images", "5" if make else "4"]
    done = command("quantize", *NETWORK, *data, "--output", str(tmp_path / "run"))
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert ("x." in done.stderr) if make else ("n9 holds no images" in done.stderr)
    assert not (tmp_path / "run").exists()


def test_a_network_that_cannot_be_saved_is_refused_before_it_is_measured(
    tmp_path: Path, mrecg_command: Callable[..., Finished]
) -> None:
    (tmp_path / "odd_network.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Odd(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        return torch.special.bessel_j0(super().forward(x))\n"
        "def net():\n"
        "    return Odd(nn.Conv2d(3, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))\n"
    )
    data = ["--data", f"imagenet:{imagenet(tmp_path / 'root')}", "--images", "12"]
    network = ["--network", "odd_network:net", *NETWORK[2:4], "--size", "32"]
    done = mrecg_command("quantize", *network, *data, "--output", "run")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "top-1" not in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()
