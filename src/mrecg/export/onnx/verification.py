"""`verify_onnx`: the proof that a file computes what was simulated, and what it costs to run."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from jaxtyping import Float
from torch import Tensor, fx

from mrecg.errors import DataError, ExportError, VerificationError, expect, reason_of
from mrecg.export.findings import RuntimeRecord, Verification
from mrecg.export.onnx.files import float_model
from mrecg.export.onnx.layouts import weight_grids
from mrecg.export.onnx.runtimes import (
    Run,
    Runtime,
    describe,
    installed_runtimes,
    interleaved_seconds,
    open_file,
)
from mrecg.export.onnx.tracing import Replay, Rounding, expose_codes, output_resolutions
from mrecg.export.requirements import require_uniform
from mrecg.preparation.calibration import check_images
from mrecg.reading import require_regular
from mrecg.runs.folder import QuantizedModel

__all__ = ["ideal_bytes", "verify_onnx"]

IMAGES_AT_ONCE = 100
LARGEST_DISTANCE = 0.51
"""In units of the scale: a code further than this from the simulated number is a mistake, whatever the order of additions."""
LARGEST_DIFFERENCE = 0.01
"""In units of the output's resolution: the same for outputs, as long as floats resolve it."""
LAST_DIGITS = 8
"""Of the largest output: sums of 32-bit floats resolve no less."""
LAYERS_AND_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
INTEGER_OPERATORS = ("MatMulIntegerToFloat", "QGemm", "QLinearConv", "QLinearMatMul")


def verify_onnx(
    quantized: QuantizedModel,
    path: str | Path,
    images: Float[Tensor, "n ..."],
    repeats: int = 20,
) -> Verification:
    """Run a file and compare it with the simulation, then time it against the float network.

    Args:
        quantized: the simulation.
        path: of a file that `export_onnx` wrote from it.
        images: to compare on.
        repeats: timed runs of one image, in turns with the float network's; 0 times nothing.

    Raises:
        VerificationError: given the same codes before it, a code is further than 0.51 scales from the simulated number,
            or an output further than 0.01 times its resolution and than floats resolve; the message names the first
            layer where they part.
        ExportError: a package is missing, the codes are logarithms, or ONNX Runtime cannot load the file.
        DataError: images that the model cannot take.
    """
    file = Path(path)
    require_uniform(quantized)
    _check_images(quantized, images)
    _require_file(file)
    with tempfile.TemporaryDirectory() as scratch:
        return _verify(quantized, file, images, repeats, Path(scratch))


def ideal_bytes(quantized: QuantizedModel) -> int:
    """Return the bytes of codes and zero points in their bits, of scales and everything else in 32."""
    bits = {}
    for name, (low, high) in weight_grids(quantized.program).items():
        width = (high - low).bit_length()
        bits[name] = bits[name.removesuffix("codes") + "zero_point"] = width
    state = quantized.program.state_dict
    return sum(-(-tensor.numel() * bits.get(name, 32) // 8) for name, tensor in state.items())


def _verify(
    quantized: QuantizedModel, file: Path, images: Tensor, repeats: int, folder: Path
) -> Verification:
    """Compare and time a file, with other files in the empty `folder`; see `verify_onnx`."""
    model = quantized.model
    assert isinstance(model, fx.GraphModule)
    run = open_file("onnxruntime", file, optimized=folder / "optimized.onnx")
    found = _replay(model, file, images, folder)
    _refuse_distant_codes(file, found.roundings)
    resolutions = output_resolutions(model)
    differences = _close_outputs(file, found.same_codes, found.traced, resolutions)
    integer, in_float = _layers(file, folder / "optimized.onnx")
    reference = found.simulated, resolutions[0]
    runtimes = _check_runtimes(quantized, file, images, reference, repeats, folder)
    ours = _in_batches(run, images)
    return Verification(
        file=file.name,
        images=len(images),
        top1_agreement=_agreement(ours, found.simulated),
        top1_agreement_ties_apart=_agreement(found.traced[0], found.same_codes[0]),
        largest_difference=max(differences),
        largest_distance=max((one.distance for one in found.roundings), default=0.0),
        different_codes=sum(one.different for one in found.roundings),
        codes=sum(one.codes for one in found.roundings),
        output_resolution=resolutions[0],
        integer_layers=integer,
        float_layers=in_float,
        file_bytes=file.stat().st_size,
        ideal_bytes=ideal_bytes(quantized),
        runtimes=runtimes,
    )


def _require_file(file: Path) -> None:
    try:
        require_regular(file)
    except (OSError, ValueError) as error:
        raise ExportError(f"The file {file} cannot be read: {reason_of(error)}.") from error


def _check_images(quantized: QuantizedModel, images: Tensor) -> None:
    where = "the images to verify with"
    expect(images, Tensor, "What is verified with", "give images as a tensor", DataError)
    check_images(images, where)
    shape = quantized.record.input_shape
    if tuple(images.shape[1:]) != shape or not len(images):
        raise DataError(
            f"There are {len(images)} {where.removeprefix('the ')}, of shape {tuple(images.shape[1:])}, "
            f"expected at least one, of shape {shape}."
        )


@dataclass(frozen=True)
class _Replayed:
    """Outputs for all images, and how the file rounded.

    Attributes:
        simulated: the first output of the simulation.
        same_codes: all outputs of the simulation on the file's codes.
        traced: all outputs of the file.
        roundings: by quantizer, in graph order.
    """

    simulated: np.ndarray
    same_codes: list[np.ndarray]
    traced: list[np.ndarray]
    roundings: list[Rounding]


def _replay(model: fx.GraphModule, file: Path, images: Tensor, folder: Path) -> _Replayed:
    """Run the file, the simulation, and the simulation on the file's codes.

    Raises:
        VerificationError: the file is of another network.
    """
    exposed = _exposed(file, folder / "exposed.onnx")
    run = open_file("onnxruntime", folder / "exposed.onnx")
    names = [value.name for value in onnx.load(folder / "exposed.onnx").graph.output]
    replay, codes_of = Replay(model), set(exposed.values())
    parts: list[list[np.ndarray]] = []
    with torch.inference_mode():
        for batch in images.split(IMAGES_AT_ONCE):
            try:
                given = run(batch.numpy())
                values = dict(zip(names, given, strict=True))
                codes = {node: values[name] for node, name in exposed.items()}
                same = [output.numpy() for output in replay.outputs(batch, codes)]
                _require_same_shapes(same, [values[name] for name in names if name not in codes_of])
            except Exception as error:  # of the runtime, or of codes that do not fit
                raise _of_another_network(file, error) from error
            alone = model(batch)
            alone = alone[0] if isinstance(alone, tuple | list) else alone
            parts.append([alone.numpy(), *same, *given[: len(same)]])
    simulated, *rest = (np.concatenate(part) for part in zip(*parts, strict=True))
    count = len(rest) // 2
    return _Replayed(simulated, rest[:count], rest[count:], list(replay.roundings.values()))


def _exposed(file: Path, target: Path) -> dict[str, str]:
    try:
        return expose_codes(file, target)
    except OSError as error:
        raise ExportError(f"The file {target} cannot be written: {reason_of(error)}.") from error
    except Exception as error:  # nodes that lack what those of a file of ours have
        raise _of_another_network(file, error) from error


def _require_same_shapes(expected: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> None:
    shapes, found = ([one.shape for one in values] for values in (expected, got))
    if shapes != found:
        raise ValueError(f"its outputs have the shapes {found}, expected {shapes}")


def _of_another_network(file: Path, error: Exception) -> VerificationError:
    return VerificationError(
        f"The file {file} is of another network than the run: {reason_of(error)}; export it from this run."
    )


def _refuse_distant_codes(file: Path, roundings: Sequence[Rounding]) -> None:
    for one in roundings:
        if not one.distance <= LARGEST_DISTANCE:
            raise VerificationError(
                f"The file {file} parts from the simulation at '{one.layer}': given the same inputs, a code is "
                f"{one.distance:.2f} scales from the simulated number, expected at most {LARGEST_DISTANCE:g}; "
                "export the run again, and report it if that does not help."
            )


def _close_outputs(
    file: Path,
    simulated: Sequence[np.ndarray],
    ours: Sequence[np.ndarray],
    resolutions: Sequence[float],
) -> list[float]:
    """Return the largest difference of each output, in units of its resolution, and refuse a large one."""
    found = []
    for index, (expected, got, resolution) in enumerate(
        zip(simulated, ours, resolutions, strict=True)
    ):
        difference = float(np.abs(expected - got).max()) / resolution
        resolved = LAST_DIGITS * float(np.spacing(np.abs(expected).max())) / resolution
        allowed = max(LARGEST_DIFFERENCE, resolved)
        if not difference <= allowed:
            which = "its output" if len(resolutions) == 1 else f"its output {index}"
            raise VerificationError(
                f"The file {file} parts from the simulation at {which}: given the same inputs to the last layers, a "
                f"number differs by {difference:.2g} times the output's resolution, expected at most {allowed:.2g}; export the "
                "run again, and report it if that does not help."
            )
        found.append(difference)
    return found


def _check_runtimes(
    quantized: QuantizedModel,
    file: Path,
    images: Tensor,
    reference: tuple[np.ndarray, float],
    repeats: int,
    folder: Path,
) -> tuple[RuntimeRecord, ...]:
    """Measure on every installed runtime, against the float network's file in `folder`."""
    float_file = folder / "float.onnx" if repeats else None
    if float_file is not None:
        float_model(quantized.program, float_file)
    return tuple(
        _check_runtime(runtime, file, float_file, images, reference, repeats)
        for runtime in installed_runtimes()
    )


def _check_runtime(
    runtime: Runtime,
    file: Path,
    float_file: Path | None,
    images: Tensor,
    reference: tuple[np.ndarray, float],
    repeats: int,
) -> RuntimeRecord:
    """Measure agreement and speed on one runtime; where it cannot load the file, the result says so.

    Args:
        reference: the simulation's first output and its resolution.
    """
    try:
        run = open_file(runtime, file)
    except ExportError as error:
        return RuntimeRecord(name=describe(runtime), problem=str(error))
    ours = _in_batches(run, images)
    simulated, resolution = reference
    record = RuntimeRecord(
        name=describe(runtime),
        top1_agreement=_agreement(ours, simulated),
        largest_difference=float(np.abs(ours - simulated).max()) / resolution,
    )
    if float_file is None:
        return record
    runs = [run, open_file(runtime, float_file)]
    (mine, spread), (of_float, float_spread) = interleaved_seconds(
        runs, images[:1].numpy(), repeats
    )
    times = {"seconds": mine, "spread": spread}
    return record.model_copy(
        update=times | {"float_seconds": of_float, "float_spread": float_spread}
    )


def _in_batches(run: Run, images: Tensor) -> np.ndarray:
    return np.concatenate([run(batch.numpy())[0] for batch in images.split(IMAGES_AT_ONCE)])


def _agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Return in how many percent of the rows the largest entry is at the same place."""
    return 100 * float((a.argmax(-1) == b.argmax(-1)).mean())


def _layers(file: Path, optimized: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the layers that ONNX Runtime computes in integers, and in float; by the modules' names.

    Integer nodes keep the name of what they come from, with an ending; float ones may lose it.
    """
    layers = [
        node.name for node in onnx.load(file).graph.node if node.op_type in LAYERS_AND_PRODUCTS
    ]
    fused = {
        node.name.rsplit("_token_", 1)[0]
        for node in onnx.load(optimized).graph.node
        if node.op_type in INTEGER_OPERATORS
    }
    integer = dict.fromkeys(name.rsplit("/", 1)[0] for name in layers if name in fused)
    in_float = dict.fromkeys(name.rsplit("/", 1)[0] for name in layers if name not in fused)
    return tuple(integer), tuple(in_float)
