"""Rounding to nearest at 8 bits against ONNX Runtime's static quantization, in turns, in one process.

Both start from the same float module and images and end with a quantized program: ours in `mrecg.quantize`, theirs in an ONNX
file. Theirs is the export by torch, their own preparation, and calibration by extremes; they see image after image, as their
examples do. A turn with a few images, which imports modules, comes first and does not count.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import mrecg
from benchmarks.performance.random_network import random_network
from benchmarks.performance.results import performance_store
from benchmarks.provenance import ONNX_PACKAGES, commit, versions

__all__ = ["configure", "run"]

NETWORKS_AT = ("resnet18@224", "mobilenetv2_100@224")
PRESET = "w8a8-rtn"
WARM_UP = 4
"""Images of the turn that is not counted."""


def round_in_onnxruntime(model: nn.Module, images: Tensor, folder: Path) -> dict[str, float]:
    """Export and quantize by ONNX Runtime; return the CPU seconds of both."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(images.split(1))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    float_file, prepared, quantized = (folder / name for name in ("float", "prepared", "quantized"))

    def export() -> None:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model.eval(),
                (images[:2],),
                float_file,
                input_names=["images"],
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                dynamo=True,
                external_data=False,
            )

    def quantize() -> None:
        quant_pre_process(float_file, prepared, skip_symbolic_shape=True)
        with _one_thread():
            quantize_static(prepared, quantized, Reader(), per_channel=True)

    return {"export": cpu_seconds(export), "quantize_static": cpu_seconds(quantize)}


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run ONNX Runtime's calibration in one thread; it has no option for that."""
    from onnxruntime import InferenceSession, SessionOptions
    from onnxruntime.quantization import calibrate

    def session(*arguments: Any, sess_options: SessionOptions, **rest: Any) -> InferenceSession:
        sess_options.intra_op_num_threads = 1
        return InferenceSession(*arguments, sess_options=sess_options, **rest)

    with mock.patch.object(calibrate.onnxruntime, "InferenceSession", session):
        yield


def cpu_seconds(function: Callable[[], object]) -> float:
    """Return the CPU seconds of a call."""
    started = time.process_time()
    function()
    return time.process_time() - started


def measure(network: str, side: int, images: int, turns: int) -> dict[str, Any]:
    """Time both in turns; medians of all turns but the first."""
    model, calibration = random_network(network, side, images)
    ours: list[float] = []
    theirs: list[dict[str, float]] = []
    records: list[mrecg.Record] = []
    for turn in range(turns + 1):
        some = calibration if turn else calibration[:WARM_UP]
        started = time.process_time()
        records.append(mrecg.quantize(model, some, recipe=PRESET).record)
        ours.append(time.process_time() - started)
        with tempfile.TemporaryDirectory() as folder:
            theirs.append(round_in_onnxruntime(model, some, Path(folder)))
    parts = {name: statistics.median(one[name] for one in theirs[1:]) for name in theirs[0]}
    found = statistics.median(ours[1:])
    return {
        "network": network,
        "side": side,
        "images": images,
        "turns": turns,
        "seconds": found,
        "theirs": parts,
        "ratio": found / sum(parts.values()),
        "commit": commit(),
        "environment": dict(records[-1].environment) | versions(ONNX_PACKAGES),
    }


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS_AT), metavar="NAME@SIDE")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--turns", type=int, default=1, help="that count; one more warms up")


def run(arguments: argparse.Namespace) -> None:
    """Measure, and store, every network."""
    for place in arguments.networks:
        network, side = place.split("@")
        result = measure(network, int(side), arguments.images, arguments.turns)
        performance_store("rounding", arguments.results).add(result)
        print(f"{place}: {result['ratio']:.2f} × ONNX Runtime's static quantization", flush=True)
