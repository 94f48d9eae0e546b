"""Layouts of weights in a file: in 8-bit words, which every runtime computes with, or packed to their bits."""

from typing import Literal

import numpy as np
import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from mrecg.export.onnx.graphs import WORDS, add_constant, constant, container_bounds, container_of
from mrecg.quantizers.grid import container_shift

__all__ = ["Layout", "lay_out_weights", "numbers", "packed_types", "uses_16_bits", "weight_grids"]

Layout = Literal["int8", "packed"]

_PACKED = {
    (2, False): ir.DataType.UINT2,
    (2, True): ir.DataType.INT2,
    (4, False): ir.DataType.UINT4,
    (4, True): ir.DataType.INT4,
}
_IN_GEMM = {ir.DataType.UINT2: ir.DataType.UINT4, ir.DataType.INT2: ir.DataType.INT4}
"""ONNX Runtime 1.32 takes 2-bit weights of a Gemm for 8-bit ones and then refuses them."""


def weight_grids(program: ExportedProgram) -> dict[str, tuple[int, int]]:
    """Return the smallest and the largest code of every quantized weight, by the name of its codes."""
    names = program.graph_signature.inputs_to_buffers
    operator = torch.ops.quantized_decomposed.dequantize_per_channel.default
    return {
        names[node.args[0].name]: (node.args[4], node.args[5])
        for node in program.graph.nodes
        if node.target is operator
    }


def packed_types(grids: dict[str, tuple[int, int]]) -> set[ir.DataType]:
    """Return the types narrower than 8 bits that the layout `packed` uses."""
    return {found for grid in grids.values() if (found := _packed_type(*grid)) is not None}


def uses_16_bits(program: ExportedProgram) -> bool:
    """Return whether codes of a program, of activations or weights, are wider than 8 bits.

    Raises:
        ExportError: some are wider than 16.
    """
    operator = torch.ops.quantized_decomposed.quantize_per_tensor.default
    nodes = [node for node in program.graph.nodes if node.target is operator]
    ranges = [*weight_grids(program).values(), *(node.args[3:5] for node in nodes)]
    containers = {container_of(low, high) for low, high in ranges}
    return not containers <= set(WORDS)


def lay_out_weights(graph: ir.Graph, grids: dict[str, tuple[int, int]], layout: Layout) -> None:
    """Put every weight's codes into the container of `layout`; their real values stay the same."""
    for node in [node for node in graph if node.op_type == "DequantizeLinear"]:
        source = node.inputs[0]
        assert source is not None
        if source.name not in grids:
            continue
        low, high = grids[source.name]
        shift = container_shift(low, high)
        packed = _packed_type(low, high) if layout == "packed" else None
        if any(use.node.op_type == "Gemm" for use in node.outputs[0].uses()):
            packed = _IN_GEMM.get(packed, packed)
        if packed is None and _fits_without_zero_point(node, shift):
            _store_signed(graph, node, shift)
        else:
            _store(graph, node, packed or container_of(low, high))
        _transpose_codes(graph, node)


def _packed_type(low: int, high: int) -> ir.DataType | None:
    bits = (high - low).bit_length()
    return _PACKED.get((2 if bits <= 2 else 4 if bits <= 4 else 8, low < 0))


def numbers(node: ir.Node) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes, scale, and zero point shaped to broadcast against the codes."""
    codes, scale, zero_point = (constant(value) for value in node.inputs)
    assert codes is not None
    assert scale is not None
    assert zero_point is not None
    axis = node.attributes["axis"].as_int()
    shape = [-1 if position == axis else 1 for position in range(codes.ndim)]
    return codes.astype(np.int32), scale, zero_point.astype(np.int32).reshape(shape)


def _fits_without_zero_point(node: ir.Node, shift: int) -> bool:
    codes, _, zero_point = numbers(node)
    centered = (codes - zero_point) << shift
    low, high = container_bounds(ir.DataType.INT8)
    return bool(centered.min() >= low and centered.max() <= high)


def _store_signed(graph: ir.Graph, node: ir.Node, shift: int) -> None:
    """Store codes minus their zero point, shifted up in the word, which every integer kernel takes."""
    codes, scale, zero_point = numbers(node)
    name = str(node.inputs[0].name)
    arrays = (
        ((codes - zero_point) << shift).astype(np.int8),
        scale * np.float32(2.0**-shift),
        np.zeros_like(scale, dtype=np.int8),
    )
    _replace(graph, node, name, arrays, ir.DataType.INT8)


def _store(graph: ir.Graph, node: ir.Node, dtype: ir.DataType) -> None:
    codes, scale, zero_point = numbers(node)
    narrow = dtype.numpy()
    name = str(node.inputs[0].name)
    _replace(
        graph, node, name, (codes.astype(narrow), scale, zero_point.flatten().astype(narrow)), dtype
    )


def _replace(
    graph: ir.Graph,
    node: ir.Node,
    name: str,
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
    dtype: ir.DataType,
) -> None:
    base = name.removesuffix(".codes").replace("quantized_weight", "weight")
    codes, scale, zero_point = arrays
    values = (
        add_constant(graph, base, codes, dtype),
        add_constant(graph, f"{base}.scale", scale, ir.DataType.FLOAT),
        add_constant(graph, f"{base}.zero_point", zero_point, dtype),
    )
    for index, value in enumerate(values):
        node.replace_input_with(index, value)


def _transpose_codes(graph: ir.Graph, node: ir.Node) -> None:
    """Turn a matrix before it is dequantized: integer kernels look for the quantizer right at the product."""
    for turn in {use.node: None for use in node.outputs[0].uses()}:
        codes = constant(node.inputs[0])
        if turn.op_type != "Transpose" or codes is None or codes.ndim != 2:
            continue
        source = node.inputs[0]
        assert source is not None
        assert source.dtype is not None
        turned = add_constant(graph, f"{source.name}.transposed", codes.T, source.dtype)
        axis = 1 - node.attributes["axis"].as_int()
        fresh = ir.node(
            "DequantizeLinear", [turned, *node.inputs[1:]], {"axis": axis}, name=turn.name
        )
        fresh.outputs[0].type, fresh.outputs[0].shape = turn.outputs[0].type, turn.outputs[0].shape
        fresh.outputs[0].name = f"{turn.outputs[0].name}_real"
        graph.insert_before(turn, fresh)
        ir.convenience.replace_all_uses_with(turn.outputs[0], fresh.outputs[0])
        graph.remove(turn, safe=True)
