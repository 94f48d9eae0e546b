"""Sources that are meant differently: one sentence with the name that was meant."""

from pathlib import Path

import pytest

from mrecg.data import calibration_images, recorded_name
from mrecg.errors import DataError
from pictures import imagenet, save
from pictures import picture as pixels


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    imagenet(tmp_path / "root", classes=2, images=2)
    (tmp_path / "rows.parquet").write_bytes(b"")
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        ("demos", "There is no data source 'demos'; did you mean 'demo'?"),
        ("root", "'root', but a path of that name; did you mean 'imagenet:root'?"),
        ("./root/train", "a path of that name; did you mean 'folder:./root/train'?"),
        ("rows.parquet", "a path of that name; did you mean 'datasets:rows.parquet'?"),
        ("folder:root", "holds train/ and val/, which are no classes; did you mean imagenet:root?"),
        (
            "imagenet:root/train",
            "no folder train/, expected train/ and val/; did you mean imagenet:",
        ),
        ("imagenet:flat", "has no folder train/, expected train/ and val/."),
        ("imagenet:classes", "did you mean folder:classes, for class folders without splits?"),
    ],
)
def test_the_source_that_was_meant_is_named(source: str, advice: str, root: Path) -> None:
    for path in ("flat/1.png", "classes/a/1.png"):
        save(root.parent / path, pixels(8, 8, seed=1))
    with pytest.raises(DataError) as refused:
        calibration_images(source, 2, seed=0)
    assert advice in str(refused.value)
    assert str(refused.value).count("?") <= 1
    assert "?." not in str(refused.value)


def test_a_wrong_class_folder_says_what_to_do(root: Path) -> None:
    (root / "train" / "notes").mkdir()
    with pytest.raises(
        DataError, match=r"same classes in both \(1 differ\); remove it, or add it to"
    ):
        calibration_images("imagenet:root", 2, seed=0)
    with pytest.raises(
        DataError, match=r"holds no images.*; remove it, because every folder counts"
    ):
        calibration_images("folder:root/train", 2, seed=0)


def test_a_record_names_sources_that_can_be_found_again(root: Path) -> None:
    assert recorded_name("folder:root") == f"folder:{root}"
    assert recorded_name("datasets:root") == f"datasets:{root}"
    assert recorded_name("datasets:uoft-cs/cifar10") == "datasets:uoft-cs/cifar10"
    assert recorded_name("demo") == "demo"
    raw = root / "FashionMNIST" / "raw"
    assert recorded_name("fashion-mnist-download:root") == f"fashion-mnist:{raw}"
