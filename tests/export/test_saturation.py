"""Products of 8 by 8 bits saturate on x86 processors before VNNI: the processor is to blame, not the file."""

import io
import platform
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import mrecg
import toys
from mrecg.cli.show.exports import show_verification
from mrecg.errors import VerificationError
from mrecg.export.onnx import runtimes, verification
from mrecg.export.onnx.runtimes import Run, products_saturate


@pytest.mark.parametrize(
    ("machine", "found", "expected"),
    [
        ("x86_64", {"avx2": True}, True),
        ("AMD64", {"avx512_vnni": False, "avx_vnni": False}, True),
        ("x86_64", {"avx512_vnni": True}, False),
        ("x86_64", {"avx_vnni": True, "avx512_vnni": False}, False),
        ("aarch64", {}, False),
    ],
)
def test_which_processors_saturate(
    machine: str, found: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert products_saturate() == expected


def saturating(*arguments: object, in_integers: bool = True, **options: object) -> Run:
    """Open a file on a processor that computes what it should without products of codes only."""
    run = runtimes.open_file(*arguments, in_integers=in_integers, **options)  # type: ignore[arg-type]
    if not in_integers:
        return run
    return lambda images: [np.asarray(one // 2, one.dtype) for one in run(images)]


@pytest.mark.parametrize("saturates", [True, False])
def test_the_processor_is_told_from_the_file(
    saturates: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = mrecg.preset("w8a8-rtn").for_backend("onnxruntime_avx2")
    run = mrecg.quantize(toys.make("residual"), toys.images(16), recipe=recipe)
    path = mrecg.export_onnx(run, tmp_path / "model.onnx")
    monkeypatch.setattr(verification, "open_file", saturating)
    monkeypatch.setattr(verification, "products_saturate", lambda: saturates)
    if not saturates:
        with pytest.raises(VerificationError, match="parts from the simulation"):
            mrecg.verify_onnx(run, path, toys.images(8), repeats=0)
        return
    found = mrecg.verify_onnx(run, path, toys.images(8), repeats=0)
    assert found.saturates
    assert found.largest_distance < 0.51
    # What runs there by default is shown as it is.
    assert (found.runtimes[0].largest_difference or 0) > 1
    console = Console(file=io.StringIO(), width=200)
    show_verification(console, found, path)
    assert isinstance(console.file, io.StringIO)
    assert "--backend onnxruntime_avx2" in console.file.getvalue()


def test_seven_bits_never_saturate(tmp_path: Path) -> None:
    """On any processor: the one that runs this test, too."""
    recipe = mrecg.preset("w8a8-rtn").for_backend("onnxruntime_avx2")
    run = mrecg.quantize(toys.make("residual"), toys.images(16), recipe=recipe)
    path = mrecg.export_onnx(run, tmp_path / "model.onnx")
    assert not mrecg.verify_onnx(run, path, toys.images(8), repeats=0).saturates
