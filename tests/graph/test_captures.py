"""A process that captures again and again keeps nothing of it."""

import gc
import linecache
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.fx import graph_module
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import mrecg
import toys
from mrecg.graph.captures import forget_captures
from mrecg.runs.folder import QuantizedModel
from quick import quick, run


def kept() -> tuple[int, int, int]:
    """Count what torch keeps: symbols of shapes, generated sources, and lines for tracebacks."""
    for _ in range(2):  # what the first pass finalizes, the second frees
        gc.collect()
    symbols = sum(type(one) is ShapeEnv for one in gc.get_objects())
    lines = sum(name.startswith("<eval_with_key>") for name in linecache.cache)
    return symbols, len(graph_module._loader.eval_cache), lines


@pytest.fixture(scope="module")
def quantized() -> QuantizedModel:
    return run(toys.make("chain"), quick("w8a8-rtn"))


def quantize_and_load(quantized: QuantizedModel, folder: Path) -> None:
    found = mrecg.quantize(
        toys.make("chain"),
        toys.images(16),
        recipe=quick(reconstruct__steps=1, network__steps=2, plan__loss_steps=1.0),
    )
    found.save(folder)
    mrecg.load(folder)


def export(quantized: QuantizedModel, folder: Path) -> None:
    mrecg.export_onnx(quantized, folder / "a.onnx")
    mrecg.export_program(quantized, folder / "a.pt2")


def measure(quantized: QuantizedModel, folder: Path) -> None:
    mrecg.sensitivity(toys.make("chain"), toys.images(8), "w8a8-rtn", weight_bits=[4])


@pytest.mark.parametrize("work", [quantize_and_load, export, measure])
def test_nothing_is_kept(
    work: Callable[[QuantizedModel, Path], None], quantized: QuantizedModel, tmp_path: Path
) -> None:
    work(quantized, tmp_path / "first")
    before = kept()
    work(quantized, tmp_path / "second")
    assert kept() == before


def test_sources_of_a_failure_stay() -> None:
    before = len(graph_module._loader.eval_cache)
    with pytest.raises(ZeroDivisionError), forget_captures():  # noqa: PT012
        graph_module._exec_with_source("x = 1", {})
        raise ZeroDivisionError
    assert len(graph_module._loader.eval_cache) == before + 1
