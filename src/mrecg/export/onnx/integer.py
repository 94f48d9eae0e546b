"""Exact rewritings that let runtimes compute convolutions in integers.

None changes a value: rounding keeps order, so a quantizer may move before whatever only keeps order.
"""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from mrecg.export.onnx.graphs import (
    WORDS,
    QuantizeNode,
    add_constant,
    constant,
    dequantizer_of,
    only_reader,
    weight_dequantizer,
)

__all__ = [
    "divide_images_as_simulated",
    "integer_biases",
    "keep_float_layers_in_float",
    "keep_products_in_float",
    "keep_softmax_in_float",
    "move_quantizers_to_layers",
]

LAYERS_WITH_BIAS = ("Conv", "ConvTranspose", "Gemm")
SOURCES = (*LAYERS_WITH_BIAS, "MatMul", "Add")
"""Operators that a runtime computes in integers when a quantizer follows at once."""
BOUNDING = ("Relu", "Clip")
MOVING = (
    *("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"),
    *("DepthToSpace", "SpaceToDepth"),
)
"""Operators that pick or move elements without making new numbers."""


def move_quantizers_to_layers(graph: ir.Graph) -> None:
    """Let quantizers follow the layer whose result they round.

    A ReLU or clip before a quantizer becomes a bound on its codes: ⌊clip(x, a, b)⌉ = clip(⌊x⌉, ⌊a⌉, ⌊b⌉). Before pooling
    and reshaping a second quantizer rounds first; the one that was there then changes nothing. Codes of 16 bits stay where
    they are, because no layer runs in them.
    """
    found = (QuantizeNode.of(node) for node in graph if node.op_type == "QuantizeLinear")
    pending = [quantizer for quantizer in found if quantizer.dtype in WORDS]
    while pending:
        quantizer = pending.pop()
        while _absorb_bound(quantizer):
            pass
        moved = _repeat_before_moving(quantizer)
        if moved is not None:
            pending.append(QuantizeNode.of(moved))


def _absorb_bound(quantizer: QuantizeNode) -> bool:
    source = quantizer.node.inputs[0]
    assert source is not None
    producer = source.producer()
    if producer is None or producer.op_type not in BOUNDING or source.is_graph_output():
        return False
    if any(use.node.op_type != "QuantizeLinear" for use in source.uses()):
        return False
    ends = [constant(value) for value in producer.inputs[1:3]]
    if any(end is None for end in ends) or source.dtype != ir.DataType.FLOAT:
        return False
    low, high = quantizer.bounds
    if producer.op_type == "Relu":
        low = quantizer.code_of(0)
    elif len(ends) == 2:
        low, high = quantizer.code_of(float(ends[0])), quantizer.code_of(float(ends[1]))  # type: ignore[arg-type]
    else:
        return False
    quantizer.narrow(low, high)
    quantizer.node.replace_input_with(0, producer.inputs[0])
    if not source.uses():
        graph = producer.graph
        assert graph is not None
        graph.remove(producer, safe=True)
    return True


def _repeat_before_moving(quantizer: QuantizeNode) -> ir.Node | None:
    """Insert and return a copy of the quantizer before a moving operator, where that brings it to a layer."""
    source = quantizer.node.inputs[0]
    mover = None if source is None else source.producer()
    if mover is None or mover.op_type not in MOVING or not _leads_to_layer(mover):
        return None
    graph, value = mover.graph, mover.inputs[0]
    assert graph is not None
    assert value is not None
    quantize = ir.node(
        "QuantizeLinear", [value, *quantizer.node.inputs[1:]], name=f"{mover.name}/before"
    )
    codes = quantize.outputs[0]
    codes.type, codes.shape = ir.TensorType(quantizer.dtype), value.shape
    codes.name = f"{value.name}_codes"
    dequantize = ir.node(
        "DequantizeLinear",
        [codes, *quantizer.node.inputs[1:]],
        name=f"{mover.name}/before/dequantize",
    )
    dequantize.outputs[0].type, dequantize.outputs[0].shape = value.type, value.shape
    dequantize.outputs[0].name = f"{value.name}_rounded"
    graph.insert_before(mover, [quantize, dequantize])
    QuantizeNode.of(quantize).narrow(*quantizer.bounds)
    mover.replace_input_with(0, dequantize.outputs[0])
    return quantize


def _leads_to_layer(node: ir.Node) -> bool:
    """Return whether above `node` only order-keeping operators with one reader stand between it and a layer."""
    while node.op_type in (*BOUNDING, *MOVING):
        value = node.inputs[0]
        producer = None if value is None else value.producer()
        if value is None or producer is None or only_reader(value) is None:
            return False
        node = producer
    return node.op_type in SOURCES


def integer_biases(graph: ir.Graph) -> list[str]:
    """Store biases as 32-bit integers.

    Next to a weight in 8-bit words the scale is the accumulator's, s_x · s_w, of which the simulation's biases are whole
    multiples. Packed weights are multiplied in float: there one power of two per layer saves a scale per channel, and a
    layer without bias gets zeros, or ONNX Runtime 1.32 takes its weight for an 8-bit one and refuses it.

    Returns:
        Layers whose bias stays in float, because their input or weight does.
    """
    left: list[str] = []
    for node in [node for node in graph if node.op_type in LAYERS_WITH_BIAS]:
        if len(node.inputs) == 2 and _has_packed_weight(node):
            _add_zero_bias(graph, node)
        bias = constant(node.inputs[2]) if len(node.inputs) == 3 else None
        if bias is None:
            continue
        scale = _bias_scale(node, bias)
        codes = None if scale is None else np.rint(bias / scale)
        if scale is None or codes is None or not _is_exact(codes, scale, bias):
            left.append(str(node.name))
            continue
        _store_bias(graph, node, codes.astype(np.int32), scale)
    return left


def _has_packed_weight(layer: ir.Node) -> bool:
    weight = weight_dequantizer(layer)
    return weight is not None and weight.inputs[0].dtype not in WORDS


def _add_zero_bias(graph: ir.Graph, layer: ir.Node) -> None:
    weight = weight_dequantizer(layer)
    assert weight is not None
    scale = constant(weight.inputs[1])
    assert scale is not None
    channels = scale.size
    if layer.op_type == "ConvTranspose":
        assert layer.inputs[1] is not None
        assert layer.inputs[1].shape is not None
        channels = layer.inputs[1].shape[1] * layer.attributes["group"].as_int()
    zeros = np.zeros(channels, scale.dtype)
    layer.resize_inputs(3)
    layer.replace_input_with(
        2, add_constant(graph, f"{layer.name}/no_bias", zeros, ir.DataType.FLOAT)
    )


def _store_bias(graph: ir.Graph, node: ir.Node, codes: np.ndarray, scale: np.ndarray) -> None:
    real = node.inputs[2]
    assert real is not None
    name = str(real.name).removesuffix("_rounded")
    scales = add_constant(graph, f"{name}.scale", scale, ir.DataType.FLOAT)
    integers = add_constant(graph, name, codes, ir.DataType.INT32)
    axis = {"axis": 0} if scale.ndim else {}
    dequantize = ir.node("DequantizeLinear", [integers, scales], axis, name=f"{node.name}/bias")
    dequantize.outputs[0].type, dequantize.outputs[0].shape = real.type, real.shape
    dequantize.outputs[0].name = f"{name}.real"
    graph.insert_before(node, dequantize)
    node.replace_input_with(2, dequantize.outputs[0])


def _is_exact(codes: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> bool:
    """Return whether 32-bit integers hold the simulation's biases, as far as 32-bit floats can tell."""
    if np.abs(codes).max(initial=0) > np.iinfo(np.int32).max:
        return False
    last_digits = 1e-8 * float(np.abs(bias).max(initial=0))
    return np.allclose(codes * scale, bias, rtol=1e-6, atol=last_digits)


def _bias_scale(layer: ir.Node, bias: np.ndarray) -> np.ndarray | None:
    """Return the real value of 1 in the stored bias; `None` where input or weight are float."""
    source, weight = dequantizer_of(layer.inputs[0]), weight_dequantizer(layer)
    if source is None or weight is None:
        return None
    if _has_packed_weight(layer):
        largest = float(np.abs(bias).max(initial=0)) or 1.0
        return np.array(2.0 ** (np.ceil(np.log2(largest)) - 30), np.float32)
    source_scale, weight_scale = constant(source.inputs[1]), constant(weight.inputs[1])
    if source_scale is None or source_scale.ndim or weight_scale is None:
        return None
    if weight_scale.size != bias.size:  # one scale of the whole weight, repeated along another axis
        if (weight_scale != weight_scale.flat[0]).any():
            return None
        weight_scale = np.full(bias.shape, weight_scale.flat[0])
    scale: np.ndarray = np.float32(source_scale) * weight_scale.astype(np.float32)
    return scale


def divide_images_as_simulated(graph: ir.Graph) -> None:
    """Round the images as the simulation does: by the reciprocal of the scale, not by division.

    Everywhere else the two differ for one number in millions. Pixels, however, are on a grid of their own: all of one
    gray level may fall between two codes, and then all of them go one way or the other.
    """
    for node in [node for node in graph if node.op_type == "QuantizeLinear"]:
        value = node.inputs[0]
        if value not in graph.inputs:
            continue
        quantizer = QuantizeNode.of(node)
        inverse = add_constant(
            graph, f"{node.name}.inverse", np.array(1 / quantizer.scale), ir.DataType.FLOAT
        )
        one = add_constant(graph, "one", np.array(1, np.float32), ir.DataType.FLOAT)
        scaled = ir.node("Mul", [value, inverse], name=f"{node.name}/scale")
        scaled.outputs[0].type, scaled.outputs[0].shape = value.type, value.shape
        scaled.outputs[0].name = f"{value.name}_scaled"
        graph.insert_before(node, scaled)
        node.replace_input_with(0, scaled.outputs[0])
        node.replace_input_with(1, one)


def keep_softmax_in_float(graph: ir.Graph) -> None:
    """Write a softmax of codes as the exponential of its logarithm, which is the same number.

    ONNX Runtime replaces a softmax between quantizers by one of integers, whose results are up to a code away.
    """
    for node in [node for node in graph if node.op_type == "Softmax"]:
        if not _reads_codes(node):
            continue
        result = node.outputs[0]
        logarithm = ir.node("LogSoftmax", [node.inputs[0]], dict(node.attributes), name=node.name)
        exponential = ir.node("Exp", logarithm.outputs, name=f"{node.name}/exponential")
        for one in (logarithm.outputs[0], exponential.outputs[0]):
            one.type, one.shape = result.type, result.shape
        logarithm.outputs[0].name = f"{result.name}_logarithm"
        ir.convenience.replace_all_uses_with(
            result, exponential.outputs[0], replace_graph_outputs=True
        )
        graph.insert_after(node, [logarithm, exponential])
        graph.remove(node, safe=True)
        exponential.outputs[0].name = result.name


def keep_float_layers_in_float(graph: ir.Graph) -> None:
    """Put a sum of one operand between codes and layers whose weights are floats.

    ONNX Runtime rounds the weights of a layer between quantizers to 8 bits by itself, all of them by one scale.
    """
    for node in [node for node in graph if node.op_type in LAYERS_WITH_BIAS]:
        value, weight = node.inputs[:2]
        if value is None or weight is None or not _reads_codes(node):
            continue
        maker = weight.producer()
        if maker is not None and maker.op_type == "DequantizeLinear":
            continue
        _set_apart(graph, node, 0)


def keep_products_in_float(graph: ir.Graph) -> None:
    """Put a sum of one operand between a weight's codes and its product with anything but codes of 8 bits.

    ONNX Runtime 1.32 computes such a product in a kernel of its own, which rounds the other operand to 8 bits by itself.
    """
    for node in [node for node in graph if node.op_type == "MatMul"]:
        if dequantizer_of(node.inputs[1]) is not None and not _reads_codes(node, WORDS):
            _set_apart(graph, node, 1)


def _set_apart(graph: ir.Graph, node: ir.Node, position: int) -> None:
    """Put a sum of one operand, which is the operand, in front of an input of a node: no runtime fuses across it."""
    value = node.inputs[position]
    assert value is not None
    apart = ir.node("Sum", [value], name=f"{node.name}/in_float")
    apart.outputs[0].type, apart.outputs[0].shape = value.type, value.shape
    apart.outputs[0].name = f"{value.name}_in_float"
    graph.insert_before(node, apart)
    node.replace_input_with(position, apart.outputs[0])


def _reads_codes(node: ir.Node, types: Collection[ir.DataType] | None = None) -> bool:
    """Return whether a node reads codes, of some types or any, directly or through operators that move elements."""
    value = node.inputs[0]
    while value is not None and (producer := value.producer()) is not None:
        if producer.op_type == "DequantizeLinear":
            codes = producer.inputs[0]
            return types is None or (codes is not None and codes.dtype in types)
        value = producer.inputs[0] if producer.op_type in MOVING else None
    return False
