"""Runtimes for a file: ONNX Runtime, and OpenVINO where it is installed."""

import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import torch

from mrecg.errors import ExportError
from mrecg.export.requirements import is_installed

__all__ = [
    "Runtime",
    "can_load",
    "describe",
    "installed_runtimes",
    "interleaved_seconds",
    "open_file",
    "products_saturate",
]

Runtime = Literal["onnxruntime", "openvino"]
Arrays = np.ndarray | Mapping[str, np.ndarray]
"""Images, or the inputs of a file by name."""
Run = Callable[[Arrays], list[np.ndarray]]
"""ModelInputs to the outputs of a file."""

_EXACT_PRODUCTS = ("avx512_vnni", "avx_vnni")
"""What torch calls an x86 processor's instructions that add products of 8 by 8 bits in 32; those before them add two in 16."""
_NAMES: Mapping[Runtime, str] = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def installed_runtimes() -> list[Runtime]:
    """Return the runtimes that are there; ONNX Runtime first."""
    return [runtime for runtime in _NAMES if is_installed(runtime)]


def describe(runtime: Runtime) -> str:
    """Return the name and the version of a runtime."""
    return f"{_NAMES[runtime]} {version(runtime).split('-')[0]}"


def products_saturate() -> bool:
    """Return whether this processor's products of 8-bit weights with 8-bit activations do: those of x86 before VNNI."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    found = torch.cpu.get_capabilities()
    return not any(found.get(name, False) for name in _EXACT_PRODUCTS)


def open_file(
    runtime: Runtime,
    path: Path,
    threads: int = 1,
    optimized: Path | None = None,
    in_integers: bool = True,
) -> Run:
    """Load a file.

    Args:
        runtime: what runs it.
        path: the file.
        threads: of one run.
        optimized: where ONNX Runtime writes the graph that it runs.
        in_integers: whether ONNX Runtime may multiply codes; otherwise it multiplies the numbers that they stand for.

    Raises:
        ExportError: the runtime cannot load the file.
    """
    try:
        if runtime == "openvino":
            return _open_openvino(path, threads)
        return _open_onnxruntime(path, threads, optimized, in_integers)
    except Exception as error:  # runtimes document no narrower class
        reason = (
            str(error).strip().splitlines()[-1][:300] if str(error).strip() else "no reason given"
        )
        raise ExportError(f"{describe(runtime)} cannot load {path}: {reason}") from error


def can_load(runtime: Runtime, weights: ir.DataType) -> bool:
    """Return whether a runtime can load weights of a type, tried on a tiny file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        onnx.save(_probe(weights), path)
        try:
            open_file(runtime, path)
        except ExportError:
            return False
    return True


def interleaved_seconds(
    runs: Sequence[Run], images: Arrays, repeats: int
) -> list[tuple[float, float]]:
    """Return median and interquartile range of several runs, taken in turns so that all see the same machine."""
    for run in runs:
        run(images)
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, taken in zip(runs, seconds, strict=True):
            started = time.perf_counter()
            run(images)
            taken.append(time.perf_counter() - started)
    quartiles = np.percentile(seconds, [25, 50, 75], axis=1)
    return [(float(middle), float(high - low)) for low, middle, high in quartiles.T]


def _open_onnxruntime(path: Path, threads: int, optimized: Path | None, in_integers: bool) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if not in_integers:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: list(
        session.run(None, {name: images} if isinstance(images, np.ndarray) else dict(images))
    )


def _open_openvino(path: Path, threads: int) -> Run:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(core.read_model(path), "CPU", settings)
    return lambda images: [np.array(value) for value in model(images).values()]


def _probe(weights: ir.DataType) -> onnx.ModelProto:
    codes = np.zeros((1, 1, 1, 1), weights.numpy())
    constants = [
        onnx.numpy_helper.from_array(codes, "codes"),
        onnx.numpy_helper.from_array(np.ones(1, np.float32), "scale"),
        onnx.numpy_helper.from_array(codes.reshape(1), "zero"),
    ]
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["weight"], axis=0),
        onnx.helper.make_node("Conv", ["x", "weight"], ["y"]),
    ]
    shapes = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 1, 4, 4])
        for name in ("x", "y")
    ]
    narrow = ml_dtypes.iinfo(weights.numpy()).bits < 4
    return onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "probe", shapes[:1], shapes[1:], constants),
        opset_imports=[onnx.helper.make_opsetid("", 25 if narrow else 21)],
        ir_version=13 if narrow else 10,
    )
