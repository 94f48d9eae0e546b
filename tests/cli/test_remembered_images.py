"""A run remembers its images: `evaluate`, `verify` and `export` use them unless others are named."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import mrecg
from command_line import Finished, small_network
from mrecg.data import remembered_source
from mrecg.errors import DataError
from mrecg.records.record import ImageSource
from pictures import imagenet, picture, save
from run_folders import change_record, copy

NETWORK = ("--preset", "w8a8-rtn", "--size", "32", "--images", "12")


def source(name: str, validation: str | None = None) -> ImageSource:
    return ImageSource(name=name, crops="center", seed=1, validation=validation)


@pytest.fixture
def command(tmp_path: Path, mrecg_command: Callable[..., Finished]) -> Callable[..., Finished]:
    return lambda *arguments: mrecg_command(*arguments)


@pytest.fixture
def run(tmp_path: Path, command: Callable[..., Finished]) -> Path:
    """A run that was calibrated and measured on class folders, under a relative path."""
    imagenet(tmp_path / "root", classes=3, images=8)
    network = ("--network", small_network(tmp_path, channels=3))
    data = ("--data", "folder:root/train", "--validation", "folder:root/val")
    done = command("quantize", *network, *NETWORK, *data, "--seed", "3", "--output", "run")
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


def test_what_a_run_remembers_is_used(
    run: Path, command: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = mrecg.load(run).record
    root = run.parent / "root"
    assert record.source == ImageSource(
        name=f"folder:{root}/train", crops="center", seed=3, validation=f"folder:{root}/val"
    )
    (run.parent / "elsewhere").mkdir()
    monkeypatch.chdir(run.parent / "elsewhere")
    measured = command("evaluate", str(run), "--json")
    assert measured.returncode == 0, measured.stderr
    found = json.loads(measured.stdout)
    assert found["count"] == record.accuracy["quantized"].count == 24
    assert found["correct1"] == record.accuracy["quantized"].correct1
    assert f"images: folder:{root}/val, as the run remembers" in measured.stderr
    other = command("evaluate", str(run), "--data", f"folder:{root}/train", "--json")
    assert "as the run remembers" not in other.stderr
    pytest.importorskip("onnx")
    exported = command(
        "export", str(run), "--output", "x.onnx", "--evaluation-images", "5", "--json"
    )
    assert json.loads(exported.stdout)["images"] == 5
    verified = command("verify", str(run), "x.onnx", "--evaluation-images", "6", "--json")
    assert json.loads(verified.stdout)["images"] == 6


def test_a_run_is_verified_on_what_it_remembers(
    run: Path, command: Callable[..., Finished]
) -> None:
    """Equal counts here; the record names everything that decides them."""
    record = mrecg.load(run).record
    assert {"network", "images"} == set(record.inputs)
    assert {"mrecg", "torch", "numpy", "pillow", "device", "threads"} <= set(record.environment)
    done = command("verify-run", str(run), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["recorded"] == found["measured"]
    assert (found["differences"], found["allowed"], found["holds"]) == ([], 0, True)
    assert (found["same_images"], found["version"]) == (True, "")
    image = next((run.parent / "root/train").rglob("*.JPEG"))
    save(image, picture(50, 50, seed=77))
    older = copy(run, run.parent / "older")
    change_record(older, lambda record: record["environment"].update(mrecg="0.0.1"))
    done = command("verify-run", str(older))
    assert done.returncode == 1
    assert "the version differs: mrecg 0.0.1, now " in done.stdout
    assert "the images that calibrated are other images than the record's" in done.stdout
    assert "does not repeat: the images that calibrated are not those of its record" in done.stderr
    shutil.rmtree(run.parent / "root/train")
    done = command("verify-run", str(run))
    assert done.returncode == 0
    assert "the images that calibrated are not compared" in done.stderr
    for folder in (run.parent / "root/val").iterdir():
        next(folder.iterdir()).unlink()
    done = command("verify-run", str(run))
    assert done.returncode == 1
    assert "holds 21 images for evaluation, got a request for 24" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_is_verified_though_an_image_cannot_be_read(
    tmp_path: Path, command: Callable[..., Finished]
) -> None:
    imagenet(tmp_path / "root", classes=2, images=60)
    sorted((tmp_path / "root/val").rglob("*.JPEG"))[0].write_bytes(b"no image")
    network = ("--network", small_network(tmp_path, channels=3))
    data = ("--data", "folder:root/train", "--validation", "folder:root/val")
    counts = ("--preset", "w8a8-rtn", "--images", "8", "--evaluation-images", "110")
    done = command("quantize", *network, *NETWORK, *data, *counts, "--output", "run")
    assert done.returncode == 0, done.stderr
    accuracy = mrecg.load(tmp_path / "run").record.accuracy["quantized"]
    assert (accuracy.count, accuracy.skipped, accuracy.asked) == (109, 1, 110)
    done = command("verify-run", "run", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["recorded"] == found["measured"]


def test_images_that_are_gone(run: Path, command: Callable[..., Finished]) -> None:
    """What only needs them to compare goes on; what needs them says so."""
    pytest.importorskip("onnx")
    shutil.rmtree(run.parent / "root")
    refused = command("evaluate", str(run))
    assert refused.returncode == 1
    assert "root/val', which is not on this machine; name images with --data." in refused.stderr
    exported = command("export", str(run), "--output", "x.onnx")
    assert exported.returncode == 0, exported.stderr
    assert "not compared with the simulation: The run's images are" in exported.stdout
    assert (run.parent / "x.onnx").is_file()
    assert command("verify", str(run), "x.onnx").returncode == 1
    named = command("export", str(run), "--output", "y.onnx", "--data", "folder:gone")
    assert named.returncode == 1
    assert not (run.parent / "y.onnx").exists()


def test_a_run_of_an_earlier_version_is_read_and_asks_for_data(
    run: Path, command: Callable[..., Finished]
) -> None:
    """Its record has no such field, and its hash was taken without it."""
    older = copy(run, run.parent / "older")
    change_record(older, lambda record: record.pop("source"))
    assert mrecg.load(older).record.source is None
    refused = command("evaluate", str(older))
    assert refused.returncode == 1
    assert "does not say where its images come from" in refused.stderr
    assert "give --data, such as --data folder:images" in refused.stderr
    assert command("evaluate", str(older), "--data", "folder:root/val").returncode == 0


def test_the_preprocessing_must_suit_the_network(
    run: Path, command: Callable[..., Finished]
) -> None:
    other = copy(run, run.parent / "other")
    change_record(other, lambda record: record["preprocessing"].update(crop=1 << 20))
    refused = command("evaluate", str(other))
    assert refused.returncode == 1
    assert "gives images of 3×1048576×1048576, but its network takes 3×32×32" in refused.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "fashion-mnist-download:/tmp",
            "is not opened unasked; give --data fashion-mnist-download",
        ),
        ("datasets:uoft-cs/cifar10", "or would be fetched from the network; name images"),
        ("folder:/nowhere", "is not on this machine"),
        ("folder:/dev/zero", "is not on this machine"),
        ("folder:", "is not opened unasked"),
        ("https://example.org/images", "is not opened unasked"),
    ],
)
def test_a_strangers_record_opens_nothing_unusual(name: str, message: str) -> None:
    """Nothing is fetched, written or waited for because a record says so."""
    for one in (source(name), source("demo", validation=name)):
        with pytest.raises(DataError, match=message):
            remembered_source(one)
    assert remembered_source(source("demo")) == "demo"


def test_a_strangers_record_writes_no_control_characters(
    run: Path, command: Callable[..., Finished]
) -> None:
    other = copy(run, run.parent / "other")
    change_record(other, lambda record: record.update(source=source("folder:\x1b[2J").model_dump()))
    refused = command("evaluate", str(other))
    assert refused.returncode == 1
    assert "folder:?[2J" in refused.stderr
    assert "\x1b" not in refused.stderr


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A pipe with the name of an image, among images."""
    for number in range(3):
        save(tmp_path / "flat" / f"{number}.png", picture(40, 40, seed=number))
    os.mkfifo(tmp_path / "flat" / "9.png")
    return tmp_path / "flat"


def test_a_pipe_among_images_is_not_waited_for(pipe: Path) -> None:
    from mrecg.data import evaluation_images

    with pytest.raises(DataError, match=r"9\.png \(no regular file\)"):
        evaluation_images(f"folder:{pipe}", 4)
