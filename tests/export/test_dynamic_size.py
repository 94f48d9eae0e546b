"""Files for images of any size: where the network is convolutions throughout; elsewhere a sentence."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import mrecg
import toys
from mrecg.errors import ExportError
from mrecg.export.onnx.runtimes import open_file, products_saturate
from mrecg.runs.folder import QuantizedModel


class Ended(nn.Module):
    """Two convolutions, the second with stride, and an end of its own."""

    def __init__(self, end: Callable[[Tensor, Tensor], Tensor], channels: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, channels, 3, 2, padding=1)
        self.head, self.flat = nn.Linear(channels, 3), nn.Linear(16 * channels, 3)
        self.position = nn.Parameter(torch.randn(1, channels, 4, 4))
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(functional.silu(self.a(x)))
        return self.end(self, y, x) if self.end.__code__.co_argcount == 3 else self.end(y, x)


def quantized(model: nn.Module) -> QuantizedModel:
    recipe = mrecg.preset("w8a8-rtn").for_backend("onnxruntime")
    return mrecg.quantize(model.eval(), toys.images(16), recipe=recipe)


OPEN: dict[str, Callable[..., Tensor]] = {
    "convolutions": lambda y, x: y,
    "super-resolution": lambda y, x: functional.pixel_shuffle(y, 2),
    "segmentation": lambda y, x: functional.interpolate(y, x.shape[2:], mode="bilinear"),
    "by a factor": lambda y, x: functional.interpolate(y, scale_factor=2.0),
    "classifier": lambda self, y, x: self.head(y.mean((2, 3))),
}


@pytest.mark.parametrize("name", OPEN)
def test_a_file_takes_any_size(name: str, tmp_path: Path) -> None:
    run = quantized(Ended(OPEN[name]))
    path = mrecg.export_onnx(run, tmp_path / "model.onnx", dynamic_size=True)
    assert mrecg.verify_onnx(run, path, toys.images(4), repeats=0).largest_distance < 0.51
    x = toys.normal(3, 2, 24, 16)
    wanted = Ended(OPEN[name])(x)
    (made,) = open_file("onnxruntime", path, in_integers=not products_saturate())(x.numpy())
    assert made.shape == wanted.shape
    assert (torch.from_numpy(made) - wanted).norm() < 0.05 * wanted.norm()


class Detector(nn.Module):
    """Scores and boxes, as P-Net of MTCNN returns them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.scores, self.boxes = (
            nn.Conv2d(*pair, 3) for pair in ((2, 4), (4, 2), (4, 4))
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        level = functional.relu(self.body(x))
        return self.boxes(level), self.scores(level).softmax(1)


def test_a_file_of_several_outputs_takes_any_size(tmp_path: Path) -> None:
    model = Detector()
    path = mrecg.export_onnx(quantized(model), tmp_path / "model.onnx", dynamic_size=True)
    x = toys.normal(3, 2, 24, 16)
    with torch.no_grad():
        expected = model(x)
    run = open_file("onnxruntime", path, in_integers=not products_saturate())
    for made, wanted in zip(run(x.numpy()), expected, strict=True):
        assert made.shape == wanted.shape
        assert (torch.from_numpy(made) - wanted).norm() < 0.05 * wanted.norm()


def test_outputs_of_every_kind_are_tried(tmp_path: Path) -> None:
    """A number, a mask, classes and a scalar beside the map."""
    model = Ended(lambda y, x: (y.shape[0], y > 0, y.argmax(1), y.mean(), y))  # type: ignore[arg-type, return-value]
    path = mrecg.export_onnx(quantized(model), tmp_path / "model.onnx", dynamic_size=True)
    batch, mask, classes, mean, level = open_file("onnxruntime", path)(
        toys.normal(3, 2, 24, 16).numpy()
    )
    assert (int(batch), mean.shape) == (3, ())
    assert (mask == (level > 0)).all()
    assert (classes == level.argmax(1)).all()


FIXED: dict[str, Callable[..., Tensor]] = {
    "positions": lambda self, y, x: y + self.position,
    "flattened": lambda self, y, x: self.flat(y.flatten(1)),
    "another size": lambda y, x: functional.interpolate(y, (7, 7)),
}


@pytest.mark.parametrize("name", FIXED)
def test_a_network_of_one_size_says_so(name: str, tmp_path: Path) -> None:
    """And an earlier file stays."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"an earlier file")
    with pytest.raises(
        ExportError, match=r"takes images of 8×8 only.*export it without dynamic_size"
    ):
        mrecg.export_onnx(quantized(Ended(FIXED[name])), path, dynamic_size=True)
    assert path.read_bytes() == b"an earlier file"
    assert list(tmp_path.iterdir()) == [path]


def test_only_images_have_a_size(tmp_path: Path) -> None:
    recipe = mrecg.preset("w8a8-rtn")
    run = mrecg.quantize(nn.Linear(4, 3).eval(), toys.normal(16, 4), recipe=recipe)
    with pytest.raises(ExportError, match="no height and width"):
        mrecg.export_onnx(run, tmp_path / "model.onnx", dynamic_size=True)
