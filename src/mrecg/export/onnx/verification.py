"""`verify_onnx`: the proof that a file computes what was simulated, and what it costs to run."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, fx
from torch.export.passes import move_to_device_pass

from mrecg.errors import ExportError, VerificationError, reason_of
from mrecg.export.comparison import OutputComparison
from mrecg.export.findings import OutputRecord, RuntimeRecord, Verification
from mrecg.export.onnx.checks import check_repeats, checked_inputs, require_file
from mrecg.export.onnx.files import float_model
from mrecg.export.onnx.layouts import weight_grids
from mrecg.export.onnx.runtimes import (
    Run,
    Runtime,
    describe,
    installed_runtimes,
    interleaved_seconds,
    open_file,
    products_saturate,
)
from mrecg.export.onnx.simulation import IMAGES_AT_ONCE, Output, Simulation, of_another
from mrecg.export.onnx.tracing import Replay, Rounding, expose_codes
from mrecg.export.requirements import require_uniform
from mrecg.graph.inputs import ModelInputs
from mrecg.runs.folder import QuantizedModel

__all__ = ["ideal_bytes", "verify_onnx"]

LARGEST_DISTANCE = 0.51
"""In units of the scale: a code further than this from the simulated number is a mistake, whatever the order of additions,
as long as floats resolve it."""
LARGEST_DIFFERENCE = 0.01
"""In units of the output's resolution: the same for outputs, as long as floats resolve it."""
LEAST_AGREEMENT = 99.0
"""Percent of the integers and booleans of an output; a float between two of them may go either way."""
LAST_DIGITS = 8
"""Of the largest output or code: sums of 32-bit floats resolve no less."""
LAYERS_AND_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
INTEGER_OPERATORS = ("MatMulIntegerToFloat", "QGemm", "QLinearConv", "QLinearMatMul")


def verify_onnx(
    quantized: QuantizedModel,
    path: str | Path,
    images: Tensor | Mapping[str, Tensor],
    repeats: int = 20,
) -> Verification:
    """Run a file and compare it with the simulation, then time it against the float network.

    Where a file differs on an x86 processor before VNNI, whose products of 8 by 8 bits saturate, it is compared without these
    products: then the processor is to blame and not the file, and the result says that it saturates.

    Args:
        quantized: the simulation.
        path: of a file that `export_onnx` wrote from it.
        images: to compare on; of a network with several inputs, a dictionary by name.
        repeats: timed runs of one image, in turns with the float network's; 0 times nothing.

    Raises:
        VerificationError: given the same codes before it, a code is further than 0.51 scales from the simulated number
            (0.53 with 16 bits), or an output further than 0.01 times its resolution and than floats resolve; the message
            names the first layer where they part.
        ExportError: a package is missing, the codes are logarithms, the path or the repeats are none, or ONNX Runtime
            cannot load the file.
        DataError: images that the model cannot take.
    """
    require_uniform(quantized)
    check_repeats(repeats)
    inputs = checked_inputs(quantized, images)
    file = require_file(path)
    with tempfile.TemporaryDirectory() as scratch:
        return _verify(_on_the_cpu(quantized), file, inputs.cpu(), repeats, Path(scratch))


def _on_the_cpu(quantized: QuantizedModel) -> QuantizedModel:
    """Return the simulation where the runtimes compute, too."""
    tensors = [*quantized.program.state_dict.values(), *quantized.program.constants.values()]
    if all(one.device.type == "cpu" for one in tensors if isinstance(one, Tensor)):
        return quantized
    return replace(quantized, program=move_to_device_pass(quantized.program, "cpu"))


def ideal_bytes(quantized: QuantizedModel) -> int:
    """Return the bytes of codes and zero points in their bits, of scales and everything else in 32."""
    bits = {}
    for name, (low, high) in weight_grids(quantized.program).items():
        width = (high - low).bit_length()
        bits[name] = bits[name.removesuffix("codes") + "zero_point"] = width
    state = quantized.program.state_dict
    return sum(-(-tensor.numel() * bits.get(name, 32) // 8) for name, tensor in state.items())


def _verify(
    quantized: QuantizedModel, file: Path, images: ModelInputs, repeats: int, folder: Path
) -> Verification:
    """Compare and time a file, with other files in the empty `folder`; see `verify_onnx`."""
    model = quantized.model
    assert isinstance(model, fx.GraphModule)
    optimized = folder / "optimized.onnx"
    run = open_file("onnxruntime", file, optimized=optimized)  # refuses what is no model
    simulation = Simulation.of(model, file, images)
    try:
        found, outputs = _compare(simulation, images, folder, run, in_integers=True)
        saturates = False
    except VerificationError:
        if not products_saturate():
            raise
        run = open_file("onnxruntime", file, in_integers=False)
        found, outputs = _compare(simulation, images, folder, run, in_integers=False)
        saturates = True
    integer, in_float = _layers(file, optimized)
    runtimes = _check_runtimes(quantized, simulation, images, repeats, folder)
    pairs = zip(simulation.outputs, outputs, strict=True)
    classes = next((one for output, one in pairs if output.has_classes), None)
    floats = [one for one in outputs if one.difference is not None]
    return Verification(
        file=file.name,
        images=len(images),
        outputs=outputs,
        top1_agreement=classes and classes.agreement,
        top1_agreement_ties_apart=classes and classes.agreement_ties_apart,
        largest_difference=max((one.difference or 0.0 for one in floats), default=0.0),
        largest_distance=max((one.distance for one in found.roundings), default=0.0),
        different_codes=sum(one.different for one in found.roundings),
        codes=sum(one.codes for one in found.roundings),
        output_resolution=next((one.resolution or 0.0 for one in floats), 0.0),
        integer_layers=integer,
        float_layers=in_float,
        file_bytes=file.stat().st_size,
        ideal_bytes=ideal_bytes(quantized),
        runtimes=runtimes,
        saturates=saturates,
    )


@dataclass(frozen=True)
class _Replayed:
    """How a file rounded, and its outputs compared with the simulation's on the file's codes.

    Attributes:
        ties_apart: by output.
        roundings: by quantizer, in graph order.
    """

    ties_apart: list[OutputComparison]
    roundings: list[Rounding]


def _compare(
    simulation: Simulation, images: ModelInputs, folder: Path, run: Run, in_integers: bool
) -> tuple[_Replayed, tuple[OutputRecord, ...]]:
    """Compare codes and the outputs of a loaded file with the simulation's.

    Raises:
        VerificationError: they differ.
    """
    file = simulation.file
    found = _replay(simulation, images, folder, in_integers)
    _refuse_distant_codes(file, found.roundings)
    ours = simulation.compare(run, images)
    return found, tuple(
        _close_output(file, *three)
        for three in zip(simulation.outputs, found.ties_apart, ours, strict=True)
    )


def _replay(
    simulation: Simulation, images: ModelInputs, folder: Path, in_integers: bool
) -> _Replayed:
    """Run the file, and the simulation on the file's codes.

    Raises:
        VerificationError: the file is of another network.
    """
    file, found = simulation.file, simulation.comparisons()
    exposed = _exposed(file, folder / "exposed.onnx")
    run = open_file("onnxruntime", folder / "exposed.onnx", in_integers=in_integers)
    names = [value.name for value in onnx.load(folder / "exposed.onnx").graph.output]
    replay = Replay(simulation.model)
    with torch.inference_mode():
        for batch in images.split(IMAGES_AT_ONCE):
            try:
                given = run(batch.numpy())
                values = dict(zip(names, given, strict=True))
                codes = {node: values[name] for node, name in exposed.items()}
                same = replay.outputs(batch, codes)
            except Exception as error:  # of the runtime, or of codes that do not fit
                raise of_another(file, reason_of(error)) from error
            simulation.add(found, same, given[: len(same)])
    return _Replayed(found, list(replay.roundings.values()))


def _exposed(file: Path, target: Path) -> dict[str, str]:
    try:
        return expose_codes(file, target)
    except OSError as error:
        raise ExportError(f"The file {target} cannot be written: {reason_of(error)}.") from error
    except Exception as error:  # nodes that lack what those of a file of ours have
        raise of_another(file, reason_of(error)) from error


def _refuse_distant_codes(file: Path, roundings: Sequence[Rounding]) -> None:
    for one in roundings:
        resolved = LAST_DIGITS * float(np.spacing(np.float32(one.levels)))
        allowed = max(LARGEST_DISTANCE, 0.5 + resolved)
        if not one.distance <= allowed:
            raise VerificationError(
                f"The file {file} parts from the simulation at '{one.layer}': given the same inputs, a code is "
                f"{one.distance:.2f} scales from the simulated number, expected at most {allowed:.2g}; "
                "export the run again, and report it if that does not help."
            )


def _close_output(
    file: Path, output: Output, ties_apart: OutputComparison, ours: OutputComparison
) -> OutputRecord:
    """Return what is found about one output, and refuse one that differs."""
    agreement, apart = ours.agreement, ties_apart.agreement
    record = OutputRecord(name=output.name, agreement=agreement, agreement_ties_apart=apart)
    if not output.is_of_floats:
        if apart is not None and apart < LEAST_AGREEMENT:
            raise _parts_at(
                file,
                output,
                f"only {apart:.1f} % of the values are the same, expected {LEAST_AGREEMENT:g} %",
            )
        return record
    difference = ties_apart.difference / output.resolution
    resolved = LAST_DIGITS * float(np.spacing(np.float32(ties_apart.largest))) / output.resolution
    allowed = max(LARGEST_DIFFERENCE, resolved)
    if not difference <= allowed:
        raise _parts_at(
            file,
            output,
            f"a number differs by {difference:.2g} times the output's resolution, expected at most {allowed:.2g}",
        )
    return record.model_copy(
        update={
            "resolution": output.resolution,
            "difference": difference,
            "relative_error": ours.relative_error,
        }
    )


def _parts_at(file: Path, output: Output, reason: str) -> VerificationError:
    which = "its output" if output.name == "output" else f"its output '{output.name}'"
    return VerificationError(
        f"The file {file} parts from the simulation at {which}: given the same inputs to the last layers, "
        f"{reason}; export the run again, and report it if that does not help."
    )


def _check_runtimes(
    quantized: QuantizedModel,
    simulation: Simulation,
    images: ModelInputs,
    repeats: int,
    folder: Path,
) -> tuple[RuntimeRecord, ...]:
    """Measure on every installed runtime, against the float network's file in `folder`."""
    float_file = folder / "float.onnx" if repeats else None
    if float_file is not None:
        float_model(quantized.program, float_file)
    return tuple(
        _check_runtime(runtime, simulation, float_file, images, repeats)
        for runtime in installed_runtimes()
    )


def _check_runtime(
    runtime: Runtime,
    simulation: Simulation,
    float_file: Path | None,
    images: ModelInputs,
    repeats: int,
) -> RuntimeRecord:
    """Measure agreement and speed on one runtime; where it cannot load the file, the result says so."""
    try:
        run = open_file(runtime, simulation.file)
    except ExportError as error:
        return RuntimeRecord(name=describe(runtime), problem=str(error))
    found = list(zip(simulation.outputs, simulation.compare(run, images), strict=True))
    steps = [one.difference / output.resolution for output, one in found if output.is_of_floats]
    record = RuntimeRecord(
        name=describe(runtime),
        top1_agreement=next((o.agreement for output, o in found if output.has_classes), None),
        largest_difference=max(steps, default=None),
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
