"""Image files: pixel for pixel as the field evaluates, whatever the workers, with what is unreadable named."""

import io
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import mrecg
from mrecg.cli import main
from mrecg.data import CalibrationImages, Preprocessing, calibration_images, evaluation_batches
from mrecg.data.loading import Source, draw_images
from mrecg.data.preprocessing import UnreadableImage, random_box
from mrecg.data.samples import open_image
from mrecg.errors import DataError, NoLabelsError
from mrecg.evaluation import below_published
from mrecg.record import Evaluation
from mrecg.zoo import build

SMALL = Preprocessing(resize=36, crop=32)
SIZES = [(256, 256), (257, 300), (333, 259), (225, 900), (50, 40), (1, 30), (300, 224)]
MODES = ["RGB", "L", "P", "RGBA", "LA", "1"]


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Noise on a slope: every pixel matters, and the crop's place too."""
    noise = np.random.default_rng(seed).integers(0, 128, (height, width, 3))
    slope = np.linspace(0, 127, width)[None, :, None] * np.linspace(0, 1, height)[:, None, None]
    image = Image.fromarray((noise + slope).astype(np.uint8))
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image.convert(mode)


def save(path: Path, image: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def imagenet(root: Path, classes: int = 3, images: int = 4) -> Path:
    for split in ("train", "val"):
        for label in range(classes):
            for index in range(images):
                size = (40 + 3 * index, 50 - 2 * label)
                seed = 100 * label + index + (1000 if split == "val" else 0)
                save(root / split / f"n{label}" / f"{index}.JPEG", picture(*size, seed=seed))
    return root


def truncated(path: Path) -> None:
    save(path, picture(64, 64))
    path.write_bytes(path.read_bytes()[:-900])


def cmyk(path: Path) -> None:
    save(path, picture(20, 20).convert("CMYK"))


def sixteen_bits(path: Path) -> None:
    image = Image.fromarray(np.full((20, 20), 40_000, dtype=np.uint16))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG")


def no_image(path: Path) -> None:
    path.write_bytes(b"no picture")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def bomb(path: Path, side: int = 40_000) -> None:
    """A PNG of a few bytes that promises `side` × `side` pixels."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, format="PNG")
    raw = bytearray(buffer.getvalue())
    raw[16:24] = side.to_bytes(4, "big") * 2
    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    path.write_bytes(raw)


def smaller_bomb(path: Path) -> None:
    """So large that Pillow warns, and does not yet refuse."""
    bomb(path, 12_000)


def float_tiff(path: Path) -> None:
    Image.fromarray(np.ones((8, 8), dtype=np.float32)).save(path, format="TIFF")


UNREADABLE = [
    (truncated, "truncated"),
    (cmyk, "mode CMYK"),
    (sixteen_bits, "mode I;16"),
    (float_tiff, "mode F"),
    (no_image, "not an image"),
    (empty, "not an image"),
    (bomb, "pixels"),
    (smaller_bomb, "pixels"),
]


# ---- preprocessing


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_centre_crops_equal_torchvision(
    size: tuple[int, int], mode: str, transforms: ModuleType
) -> None:
    image = picture(*size, mode)
    for settings in (
        Preprocessing(),
        Preprocessing(235, 224, interpolation="bicubic"),
        Preprocessing(30, 33, 1, (0.4,), (0.2,)),
    ):
        interpolation = transforms.InterpolationMode(settings.interpolation)
        theirs = transforms.Compose(
            [
                transforms.Resize(settings.resize, interpolation),
                transforms.CenterCrop(settings.crop),
                transforms.ToTensor(),
                transforms.Normalize(settings.mean, settings.deviation),
            ]
        )
        ours = settings.normalize(settings.centre(image)[None])[0]
        assert torch.equal(ours, theirs(image.convert("L" if settings.channels == 1 else "RGB")))


class _TorchGenerator(np.random.Generator):
    """Draws as torchvision draws, from torch's global generator."""

    def uniform(self, low: float, high: float) -> float:  # type: ignore[override]
        return torch.empty(1).uniform_(low, high).item()

    def integers(self, low: int, high: int) -> int:  # type: ignore[override]
        return int(torch.randint(low, high, (1,)))

    def random(self) -> float:  # type: ignore[override]
        return torch.rand(1).item()


def test_random_crops_equal_torchvision(transforms: ModuleType) -> None:
    """Given the same random numbers, of thin images too, where ten tries fail."""
    theirs = transforms.Compose(
        [transforms.RandomResizedCrop(32), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    )
    settings = Preprocessing(36, 32, mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0))
    for seed, size in enumerate([(80, 60), (33, 90), (200, 7), (5, 150)] * 6):
        image = picture(*size, seed=seed)
        with torch.random.fork_rng():
            torch.random.default_generator.manual_seed(seed)
            expected = theirs(image)
            torch.random.default_generator.manual_seed(seed)
            pixels = settings.random(image, _TorchGenerator(np.random.PCG64()))
        assert torch.equal(settings.normalize(pixels[None])[0], expected)


def test_a_centre_crop_by_hand() -> None:
    """Without resizing: the centre of the image, scaled and normalised."""
    image = picture(20, 16)
    settings = Preprocessing(resize=16, crop=8)
    pixels = np.asarray(image, dtype=np.float64)[4:12, 6:14] / 255
    expected = (pixels - np.array(settings.mean)) / np.array(settings.deviation)
    ours = settings.normalize(settings.centre(image)[None])[0]
    torch.testing.assert_close(ours, torch.from_numpy(expected).permute(2, 0, 1).float())


@pytest.mark.parametrize(
    ("size", "resized"), [((40, 55), (32, 44)), ((41, 57), (32, 44)), ((57, 41), (44, 32))]
)
def test_the_longer_side_is_truncated(size: tuple[int, int], resized: tuple[int, int]) -> None:
    image = picture(*size)
    reference = image.resize(resized, Image.Resampling.BILINEAR)
    left, top = round((resized[0] - 30) / 2), round((resized[1] - 30) / 2)
    expected = np.asarray(reference.crop((left, top, left + 30, top + 30)))
    assert np.array_equal(Preprocessing(32, 30).centre(image), expected)


def test_a_crop_larger_than_the_image_has_a_black_border() -> None:
    pixels = Preprocessing(resize=8, crop=11).centre(Image.new("RGB", (8, 8), "white"))
    assert (pixels[1:9, 1:9] == 255).all()
    assert pixels.astype(int).sum() == 8 * 8 * 3 * 255


def test_random_boxes_are_of_the_promised_size_and_shape() -> None:
    generator = np.random.default_rng(0)
    boxes = np.array([random_box(400, 300, generator) for _ in range(2000)])
    left, top, width, height = boxes.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + width <= 400).all()
    assert (top + height <= 300).all()
    share = width * height / (400 * 300)
    assert 0.075 < share.min() < 0.1
    assert share.max() > 0.9
    ratio = width / height
    assert ((ratio > 0.72) & (ratio < 1.39)).all()
    assert abs(np.log(ratio).mean()) < 0.05  # upright as often as wide
    assert random_box(1000, 10, generator) == (493, 0, 13, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": 0}, "expected at least 1"),
        ({"channels": 2}, "1 or 3 channels"),
        ({"channels": 1}, "do not fit 1 channels"),
        ({"deviation": (1.0, 0.0, 1.0)}, "positive deviations"),
    ],
)
def test_preprocessing_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preprocessing(**settings)  # type: ignore[arg-type]


# ---- opening one image


@pytest.mark.parametrize(
    ("make", "reason"), UNREADABLE, ids=lambda item: getattr(item, "__name__", "-")
)
def test_what_cannot_be_opened_says_why(make: object, reason: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.jpg" if make in (truncated, cmyk) else "image.png")
    assert callable(make)
    make(path)
    with pytest.raises(UnreadableImage, match=reason):
        open_image(path)


def test_images_too_thin_to_resize() -> None:
    with pytest.raises(UnreadableImage, match="1×20000 pixels are too thin"):
        Preprocessing().centre(Image.new("L", (1, 20_000)))


@pytest.mark.parametrize(
    ("mode", "suffix"), [("P", "gif"), ("P", "png"), ("RGBA", "png"), ("L", "jpg")]
)
def test_kinds_of_files_that_are_read(mode: str, suffix: str, tmp_path: Path) -> None:
    image = picture(40, 40, mode)
    path = tmp_path / f"image.{suffix}"
    image.save(
        path, **({"transparency": bytes(range(256))} if (mode, suffix) == ("P", "png") else {})
    )
    assert SMALL.centre(open_image(path)).shape == (32, 32, 3)


# ---- folders


def test_imagenet_folders(tmp_path: Path) -> None:
    source = f"imagenet:{imagenet(tmp_path)}"
    batches = list(evaluation_batches(source, 5, SMALL))
    assert torch.cat([labels for _, labels in batches]).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    first = SMALL.normalize(SMALL.centre(Image.open(tmp_path / "val/n0/0.JPEG"))[None])
    assert torch.equal(batches[0][0][:1], first)
    drawn = calibration_images(source, 12, 0, SMALL).images
    train = [SMALL.centre(Image.open(file)) for file in sorted(tmp_path.glob("train/*/*"))]
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


@pytest.mark.parametrize("crops", ["centre", "random"])
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
    """An image's crop is the same whether few or many are drawn; centre crops are others."""
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
        "for call in (lambda: calibration_images('demo', 4, 0, crops='center'),\n"
        "             lambda: Preprocessing(interpolation='bicubik')):\n"
        "    try: call()\n"
        "    except DataError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "There are no crops 'center'; did you mean 'centre'.",
        "There is no interpolation 'bicubik'; did you mean 'bicubic'.",
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
        draw_images(Source("deadly", Deadly(), SMALL), 4, 0, "centre", workers=1)


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
    assert sum(len(labels) for _, labels in batches) == 99
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
    with pytest.raises(DataError, match=r"More than 1 % .* more; mend or remove them"):
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


# ---- Hugging Face datasets


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


def test_parquet_files(parquet: Path) -> None:
    source = f"datasets:{parquet}"
    pixels = [SMALL.centre(picture(40, 44, seed=seed)) for seed in range(6)]
    expected = SMALL.normalize(np.stack(pixels))
    ((images, labels),) = evaluation_batches(source, 10, SMALL, workers=2)
    assert torch.equal(images, expected)
    assert labels.tolist() == [0, 1, 1, 0, 1, 0]
    order = torch.from_numpy(np.random.RandomState(0).permutation(6))
    assert torch.equal(calibration_images(source, 6, 0, SMALL).images, expected[order])
    one = f"{source}/train-00000-of-00001.parquet"
    assert len(calibration_images(one, 6, 0, SMALL)) == 6
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


# ---- accuracy and the command line


def test_a_float_network_below_its_published_accuracy() -> None:
    measured = Evaluation(1000, 700, 900)
    assert below_published(measured, None) is None
    assert below_published(measured, 70.5) is None
    warning = below_published(measured, 71.0)
    assert warning is not None
    assert "70.00 % on 1000 images is 1.00 points below the published 71.00 %" in warning


class Done(NamedTuple):
    code: int
    stdout: str
    stderr: str


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """The command line in this process, beside a file with a small network."""
    (tmp_path / "small_network.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(4, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["mrecg", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return Done(int(stopped.value.code or 0), *capsys.readouterr())

    return run


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
    tmp_path: Path, command: Callable[..., Done]
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
    assert done.code == 0, done.stderr
    record = json.loads(done.stdout)
    assert done.stderr.index("float: top-1") < done.stderr.index("tune:")
    assert f"skipped 1 unreadable images: {root}/train/n{label}/{names[index]}" in done.stderr
    assert len(record["skipped_images"]) == 1
    assert record["accuracy"]["float"]["count"] == record["accuracy"]["quantized"]["count"] == 60
    assert record["images"] == 100
    counted = command("evaluate", "run", *arguments[:2], "--size", "32")
    assert "of 120 images" in counted.stdout
    assert mrecg.load(tmp_path / "run").record.accuracy["float"].count == 60


def test_a_flat_folder_has_no_accuracy(tmp_path: Path, command: Callable[..., Done]) -> None:
    for number in range(100):
        save(tmp_path / "flat" / f"{number}.png", picture(40, 40, seed=number))
    done = command("quantize", *NETWORK, "--data", "folder:flat", "--output", "run")
    assert done.code == 0, done.stderr
    assert "The accuracy is not measured: The source 'folder:flat' has no labels" in done.stderr
    assert "top-1" not in done.stdout
    assert mrecg.load(tmp_path / "run").record.accuracy == {}


def test_a_run_outlasts_an_evaluation_that_fails(
    tmp_path: Path, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise DataError("The disk is gone.")

    monkeypatch.setattr("mrecg.evaluation.with_accuracy", fail)
    data = ["--data", f"imagenet:{imagenet(tmp_path / 'root')}", "--images", "12"]
    done = command("quantize", *NETWORK, *data, "--output", "run")
    assert done.code == 1
    assert "error: The disk is gone." in done.stderr
    assert mrecg.load(tmp_path / "run").record.images == 12


@pytest.mark.parametrize(
    "make",
    [truncated, cmyk, sixteen_bits, None],
    ids=lambda make: getattr(make, "__name__", "empty"),
)
def test_bad_images_are_one_sentence(
    make: object, tmp_path: Path, command: Callable[..., Done]
) -> None:
    root = imagenet(tmp_path / "root", classes=2, images=2)
    if callable(make):
        make(root / "train" / "n0" / ("x.png" if make is sixteen_bits else "x.jpg"))
    else:
        for split in ("train", "val"):
            (root / split / "n9").mkdir()
    done = command(
        "plan",
        *NETWORK,
        "--data",
        f"imagenet:{root}",
        "--images",
        "5" if make else "4",
    )
    assert done.code == 1
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert ("x." in done.stderr) if make else ("n9 holds no images" in done.stderr)
    assert len(done.stderr.strip().splitlines()) == 1
