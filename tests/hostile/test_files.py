"""Files that mean harm, or are no files: refused in one sentence, and nothing waits, runs or is cut off without a word."""

import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import mrecg
import toys
from mrecg.data.preprocessing import UnreadableImage
from mrecg.data.samples import open_image
from mrecg.errors import ExportError, ModelError, MrecgError, VerificationError
from mrecg.paper.mqbench import read_experiment
from mrecg.paper.networks import build, load_weights
from mrecg.records.record import Record
from run_folders import quantized

POSIX = pytest.mark.skipif(os.name != "posix", reason="pipes and devices have names on POSIX only")
READERS: dict[str, Callable[[Path], object]] = {
    "recipe": mrecg.read_recipe,
    "configuration": read_experiment,
    "plan": mrecg.Plan.read,
    "record": Record.read,
    "pickle": lambda path: load_weights(build("resnet18_small"), path),
    "run": mrecg.load,
    "onnx": lambda path: mrecg.verify_onnx(quantized(), path, toys.images(4), repeats=0),
}


@POSIX
@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    if name == "onnx":
        pytest.importorskip("onnx")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, Path("a\0b"), Path("x" * 5000)):
        with pytest.raises(MrecgError) as caught:
            READERS[name](path)
        assert "\n" not in str(caught.value)


@POSIX
def test_an_image_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="no regular file"):
        open_image(tmp_path / "a.png")


def test_formats_that_are_not_listed_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow gives EPS to Ghostscript, whatever the file is called."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", None)
    image, path = Image.new("RGB", (4, 4)), tmp_path / "a.jpg"
    for kind in ("EPS", "PDF", "TGA", "ICO", "SGI", "PCX"):
        image.save(path, kind)
        with pytest.raises(UnreadableImage, match="not an image"):
            open_image(path)
    for kind in ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"):
        image.save(path, kind)
        assert open_image(path).size == (4, 4)


def png_of_16_bits(kind: int, channels: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\1\2" * 4 * channels) * 4)
    parts = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    "contents",
    [
        png_of_16_bits(0, 1),
        png_of_16_bits(2, 3),
        png_of_16_bits(4, 2),
        png_of_16_bits(6, 4),
        b"P6 2 2 65535\n" + bytes(24),
        b"P6 2 2 1023\n" + bytes(24),
        b"P3 1 1 1023\n1 2 3\n",
    ],
)
def test_channels_of_more_than_8_bits_are_unreadable(contents: bytes) -> None:
    with pytest.raises(UnreadableImage, match=r"expected .* with 8 bits per channel"):
        open_image(BytesIO(contents))


def test_channels_of_8_bits_are_exact() -> None:
    found = open_image(BytesIO(b"P6 2 1 255\n\1\2\3\4\5\6"))
    assert np.asarray(found).ravel().tolist() == [1, 2, 3, 4, 5, 6]


def test_a_wrapper_that_holds_itself(tmp_path: Path) -> None:
    wrapper: dict[str, object] = {"epoch": 1}
    wrapper["model"] = wrapper
    torch.save(wrapper, tmp_path / "c.pth")
    with pytest.raises(ModelError, match="holds no tensors by name"):
        load_weights(build("resnet18_small"), tmp_path / "c.pth")


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("sparse", lambda x: x.to_sparse()),
        ("meta", lambda x: x.to("meta")),
        ("quantized", lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_without_plain_values(
    kind: str, change: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    state = dict(build("resnet18_small").state_dict())
    state["fc.weight"] = change(state["fc.weight"])
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(
        ModelError, match=rf"holds 'fc\.weight' as a {kind} tensor, expected a dense"
    ):
        load_weights(build("resnet18_small"), tmp_path / "c.pth")


def test_onnx_files_of_somebody_else(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    run = quantized()
    path = mrecg.export_onnx(run, tmp_path / "m.onnx")

    def verify(change: Callable[[object], object]) -> None:
        model = onnx.load(path)
        change(model)
        onnx.save(model, tmp_path / "other.onnx")
        mrecg.verify_onnx(run, tmp_path / "other.onnx", toys.images(4), repeats=0)

    def rename(model: object) -> None:
        """Rename the output everywhere: the file computes the same."""
        name = model.graph.output[0].name  # type: ignore[attr-defined]
        model.graph.output[0].name = "renamed"  # type: ignore[attr-defined]
        for node in model.graph.node:  # type: ignore[attr-defined]
            node.output[:] = ["renamed" if one == name else one for one in node.output]

    def only_its_name(model: object) -> None:
        model.graph.output[0].name = "nothing"  # type: ignore[attr-defined]

    def no_zero_points(model: object) -> None:
        for node in model.graph.node:  # type: ignore[attr-defined]
            if node.op_type == "DequantizeLinear":
                del node.input[2:]

    def other_outputs(model: object) -> None:
        model.graph.output.append(model.graph.output[0])  # type: ignore[attr-defined]

    verify(rename)
    for change, error in (
        (only_its_name, ExportError),
        (no_zero_points, VerificationError),
        (other_outputs, ExportError),
    ):
        with pytest.raises(error) as caught:
            verify(change)
        assert "\n" not in str(caught.value)
