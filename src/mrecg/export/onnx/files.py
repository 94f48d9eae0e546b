"""Quantized models as files for ONNX Runtime and its like."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    DeduplicateInitializersPass,
    RemoveUnusedNodesPass,
)
from torch.export import ExportedProgram

from mrecg.errors import ExportError, expect, reason_of
from mrecg.export.onnx.graphs import add_constant, constant
from mrecg.export.onnx.integer import (
    divide_images_as_simulated,
    integer_biases,
    keep_float_layers_in_float,
    keep_products_in_float,
    keep_softmax_in_float,
    move_quantizers_to_layers,
)
from mrecg.export.onnx.layouts import (
    Layout,
    lay_out_weights,
    numbers,
    packed_types,
    uses_16_bits,
    weight_grids,
)
from mrecg.export.onnx.outputs import chosen_names, make_names_unique, name_outputs
from mrecg.export.onnx.runtimes import Runtime, can_load, describe, open_file
from mrecg.export.onnx.sizes import check_other_sizes, open_sizes
from mrecg.export.onnx.translation import translate
from mrecg.export.programs import without_constants
from mrecg.export.requirements import require_uniform
from mrecg.graph.captures import forget_captures
from mrecg.runs.folder import QuantizedModel
from mrecg.writing import require_writable, write_file

__all__ = ["export_onnx", "float_model"]

OPSET = 20
"""From 21 on, ONNX Runtime 1.32 cannot load signed codes whose float reader is behind pooling or a transposition: it moves
the quantizer there and forgets the type of the zero point."""
OPSET_OF_4_AND_16_BITS = 21
OPSET_OF_2_BITS = 25
_TWO_BITS = {ir.DataType.INT2, ir.DataType.UINT2}
_IR_VERSIONS = {OPSET: 9, OPSET_OF_4_AND_16_BITS: 10, OPSET_OF_2_BITS: 13}


@forget_captures()
def export_onnx(
    quantized: QuantizedModel,
    path: str | Path,
    layout: Layout = "int8",
    runtime: Runtime | None = "onnxruntime",
    output_names: Sequence[str] | None = None,
    dynamic_size: bool = False,
) -> Path:
    """Write a quantized model as an ONNX file with QuantizeLinear and DequantizeLinear nodes.

    The batch is dynamic, batch norm is folded, nodes keep the names of the original modules. What the file computes is
    what `quantized.model` computes, up to numbers between two codes to the last digit. The file's outputs are the tensors
    that the model returns, named after the keys of its dictionaries and the positions in its tuples: `logits`, `maps_1`,
    `output_0`, and `output` for a single one.

    Args:
        quantized: from `mrecg.quantize` or `mrecg.load`.
        path: of the new file; an old one is replaced.
        layout: `int8` keeps weights of any width in 8-bit words and biases in 32-bit integers, which runtimes compute
            with as they are; `packed` stores weights in 4 or 2 bits (3 bits travel in 4), which runtimes unpack.
        runtime: loads the file before it is there; `None` leaves that to ONNX's own checker.
        output_names: other names of the outputs, in order.
        dynamic_size: leave height and width of the images open, where the network is convolutions and the like throughout; the
            file is tried at other sizes in ONNX Runtime before it is there.

    Raises:
        ExportError: a package is missing, an operator has no counterpart in ONNX, the codes are logarithms, names do not fit
            the outputs, the runtime cannot load the layout or the file (nothing is written then), the network takes one size
            only, or the file cannot be
            written.
    """
    require_uniform(quantized)
    expect(path, (str, Path), "The ONNX file", "name one", ExportError)
    target = Path(path)
    for what, value, known in (
        ("layout", layout, get_args(Layout)),
        ("runtime", runtime, (None, *get_args(Runtime))),
    ):
        if value not in known:
            raise ExportError(
                f"There is no {what} {value!r}, expected {' or '.join(map(repr, known))}."
            )
    require_writable(target, ExportError)
    grids = weight_grids(quantized.program)
    narrow = packed_types(grids) if layout == "packed" else set()
    if runtime is not None:
        _check_loadable(narrow, runtime)
    opset = _opset(narrow, uses_16_bits(quantized.program))
    names = chosen_names(quantized, output_names)
    model = translate(without_constants(quantized.program), opset)
    graph = model.graph
    lay_out_weights(graph, grids, layout)
    move_quantizers_to_layers(graph)
    keep_softmax_in_float(graph)
    keep_float_layers_in_float(graph)
    keep_products_in_float(graph)
    integer_biases(graph)
    divide_images_as_simulated(graph)
    name_outputs(graph, names)
    if dynamic_size:
        open_sizes(graph)
    contents = _serialize(model, opset, target)
    _require_loadable(contents, target, runtime)
    if dynamic_size:
        with _draft(contents) as draft:
            check_other_sizes(quantized, draft)
    write_file(target, contents, ExportError)
    return target


def _opset(narrow: set[ir.DataType], has_16_bits: bool) -> int:
    """Return the oldest that has the types of the codes."""
    if narrow & _TWO_BITS:
        return OPSET_OF_2_BITS
    return OPSET_OF_4_AND_16_BITS if narrow or has_16_bits else OPSET


def float_model(program: ExportedProgram, path: Path) -> None:
    """Write the same network without quantizers: what its speed is compared with."""
    model = translate(without_constants(program), OPSET)
    graph = model.graph
    for node in [node for node in graph if node.op_type == "DequantizeLinear"]:
        codes = constant(node.inputs[0])
        value = node.outputs[0]
        if codes is None:
            real = _before_quantizer(node)
        else:
            real = add_constant(graph, f"{value.name}.float", _real(node), ir.DataType.FLOAT)
        ir.convenience.replace_all_uses_with(value, real, replace_graph_outputs=True)
    contents = _serialize(model, OPSET, path)
    _require_loadable(contents, path, "onnxruntime")
    write_file(path, contents, ExportError)


def _before_quantizer(dequantize: ir.Node) -> ir.Value:
    node: ir.Node | None = dequantize
    while node is not None and node.op_type != "QuantizeLinear":
        value = node.inputs[0]
        node = None if value is None else value.producer()
    assert node is not None
    assert node.inputs[0] is not None
    return node.inputs[0]


def _real(dequantize: ir.Node) -> np.ndarray:
    codes, scale, zero_point = numbers(dequantize)
    real: np.ndarray = (codes - zero_point) * scale.reshape(zero_point.shape)
    return real.astype(np.float32)


def _check_loadable(types: set[ir.DataType], runtime: Runtime) -> None:
    refused = sorted(kind.name for kind in types if not can_load(runtime, kind))
    if refused:
        raise ExportError(
            f"{describe(runtime)} cannot load {' and '.join(refused)} weights, which the layout 'packed' uses here; "
            "use the layout 'int8', or ask for no check by a runtime to write the file for another one."
        )


_CLEANUP = ir.passes.Sequential(
    RemoveUnusedNodesPass(),
    DeduplicateInitializersPass(),
    ClearMetadataAndDocStringPass(),
)


def _serialize(model: ir.Model, opset: int, path: Path) -> bytes:
    """Return a file's contents without what the exporter noted for itself, which would be half of a small network's."""
    _CLEANUP(model)
    make_names_unique(model.graph)
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = value.shape = None  # runtimes infer them
                value.metadata_props.clear()  # the pass leaves those of values
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.producer_name, model.producer_version = "mrecg", None
    model.ir_version = _IR_VERSIONS[opset]
    try:
        contents: bytes = ir.to_proto(model).SerializeToString()
    except Exception as error:  # protobuf's own; it has no larger files than 2 GiB
        raise ExportError(f"The file {path} cannot be written: {reason_of(error)}.") from error
    return contents


@contextlib.contextmanager
def _draft(contents: bytes) -> Iterator[Path]:
    """Yield a file that is there as long as the context."""
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / "draft.onnx"
        draft.write_bytes(contents)
        yield draft


def _require_loadable(contents: bytes, path: Path, runtime: Runtime | None) -> None:
    """Refuse a file that cannot be loaded, before it is there."""
    try:
        onnx.checker.check_model(contents)
        if runtime is not None:
            with _draft(contents) as draft:
                open_file(runtime, draft)
    except Exception as error:  # neither documents a narrower class
        reason = reason_of(error)
        raise ExportError(
            f"The file {path} is not written, because it could not be loaded: {reason}."
        ) from error
