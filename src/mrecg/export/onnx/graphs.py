"""Reading and changing an ONNX graph: constants, readers, quantizers."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from mrecg.errors import ExportError

__all__ = [
    "WORDS",
    "QuantizeNode",
    "add_constant",
    "constant",
    "container_bounds",
    "container_of",
    "dequantizer_of",
    "only_reader",
    "weight_dequantizer",
]

WORDS = (ir.DataType.UINT8, ir.DataType.INT8)
"""The types of codes that runtimes compute with in integers."""
_CONTAINERS = (*WORDS, ir.DataType.UINT16, ir.DataType.INT16)


def container_bounds(dtype: ir.DataType) -> tuple[int, int]:
    """Return the smallest and the largest value of an integer type."""
    bounds = ml_dtypes.iinfo(dtype.numpy())
    return int(bounds.min), int(bounds.max)


def container_of(low: int, high: int) -> ir.DataType:
    """Return the narrowest of ONNX's types of codes that holds those from `low` to `high`, in 8 bits or 16.

    Raises:
        ExportError: there is none.
    """
    for dtype in _CONTAINERS:
        smallest, largest = container_bounds(dtype)
        if smallest <= low and high <= largest:
            return dtype
    raise ExportError(
        f"The model has codes from {low} to {high}, expected codes that an integer of 16 bits holds, as ONNX's quantizers "
        "write; quantize it with fewer bits."
    )


def constant(value: ir.Value | None) -> np.ndarray | None:
    """Return the array that a value holds in every run, or `None`."""
    if value is None or value.const_value is None:
        return None
    array: np.ndarray = value.const_value.numpy()
    return array


def add_constant(graph: ir.Graph, name: str, array: np.ndarray, dtype: ir.DataType) -> ir.Value:
    """Add an initializer, under another name where that one is taken, and return its value."""
    free, again = name, 1
    while free in graph.initializers:
        again += 1
        free = f"{name}_{again}"
    tensor = ir.Tensor(np.asarray(array, order="C"), dtype=dtype, name=free)
    value = ir.Value(name=free, type=ir.TensorType(dtype), shape=tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def only_reader(value: ir.Value) -> ir.Node | None:
    """Return the node that alone reads a value, or `None`; a result of the graph has the caller as reader."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def dequantizer_of(value: ir.Value | None) -> ir.Node | None:
    """Return the DequantizeLinear that makes a value, or `None`."""
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def weight_dequantizer(layer: ir.Node) -> ir.Node | None:
    """Return the DequantizeLinear of a layer's weight, which may be reordered behind it, or `None`."""
    value = layer.inputs[1]
    while value is not None and (producer := value.producer()) is not None:
        if producer.op_type not in ("Reshape", "Transpose"):
            return dequantizer_of(value)
        value = producer.inputs[0]
    return None


@dataclass(frozen=True)
class QuantizeNode:
    """Hold a QuantizeLinear node, and change the bounds of its codes.

    Attributes:
        node: the QuantizeLinear.
        scale, zero_point: its numbers.
        dtype: the container of the codes.
    """

    node: ir.Node
    scale: np.float32
    zero_point: int
    dtype: ir.DataType

    @classmethod
    def of(cls, node: ir.Node) -> "QuantizeNode":
        scale, zero_point = constant(node.inputs[1]), constant(node.inputs[2])
        assert scale is not None
        assert zero_point is not None
        dtype = node.inputs[2].dtype
        assert dtype is not None
        return cls(node, np.float32(scale), int(zero_point), dtype)

    @property
    def clip(self) -> ir.Node | None:
        """Return the Clip of the codes, where their range is narrower than their container."""
        reader = only_reader(self.node.outputs[0])
        return reader if reader is not None and reader.op_type == "Clip" else None

    @property
    def bounds(self) -> tuple[int, int]:
        """Return the smallest and the largest code."""
        if self.clip is None:
            return container_bounds(self.dtype)
        low, high = (constant(value) for value in self.clip.inputs[1:3])
        assert low is not None
        assert high is not None
        return int(low), int(high)

    def code_of(self, x: float) -> int:
        """Return the code of one number, by the arithmetic of the simulation."""
        low, high = self.bounds
        code = np.rint(np.float32(x) * (np.float32(1) / self.scale)) + self.zero_point
        return int(np.clip(code, low, high))

    def narrow(self, low: int, high: int) -> None:
        """Make the codes saturate at `low` and `high`."""
        graph, codes = self.node.graph, self.node.outputs[0]
        assert graph is not None
        old = self.clip
        if old is not None:
            ir.convenience.replace_all_uses_with(old.outputs[0], codes, replace_graph_outputs=True)
            graph.remove(old, safe=True)
        if (low, high) == container_bounds(self.dtype):
            return
        numpy_type = self.dtype.numpy()
        ends = [
            add_constant(graph, f"code_{end}", np.array(end, numpy_type), self.dtype)
            for end in (low, high)
        ]
        clip = ir.node("Clip", [codes, *ends], name=f"{self.node.name}/saturate")
        clip.outputs[0].type, clip.outputs[0].shape = codes.type, codes.shape
        clip.outputs[0].name = f"{codes.name}_saturated"
        ir.convenience.replace_all_uses_with(codes, clip.outputs[0], replace_graph_outputs=True)
        clip.replace_input_with(0, codes)
        graph.insert_after(self.node, clip)
