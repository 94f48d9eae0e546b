"""Read an ONNX file as what it is: data from somewhere, which may be broken or mean harm."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx.external_data_helper import load_external_data_for_model

from mrecg.errors import ModelError, first_line

__all__ = ["LARGEST_FILE", "image_shape", "read_onnx"]

LARGEST_FILE = 2**31 - 1
"""Bytes that a message of protobuf can hold; weights in files of their own count, too."""
LARGEST_TENSOR = 2**31
"""Elements of any tensor of the graph."""
MOST_NODES = 100_000
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinear", "ConvInteger", "MatMulInteger")


def read_onnx(path: Path) -> onnx.ModelProto:
    """Return the model in a file, with the weights that lie in other files of the same folder.

    Raises:
        ModelError: the file is none of ONNX, is too large, holds operators of other domains, is quantized already, or wants
            weights from outside of its folder.
    """
    model = _parsed(path)
    _check_external(model, path)
    _check_operators(model, path)
    try:
        load_external_data_for_model(model, str(path.parent))
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        onnx.checker.check_model(model)
    except Exception as error:
        raise ModelError(f"The file {path} is damaged: {first_line(error)}.") from error
    _check_tensors(model, path)
    return model


def image_shape(path: Path) -> tuple[int | None, int | None]:
    """Return the channels and the side of the images that a file takes, where it fixes them.

    Raises:
        ModelError: as `read_onnx`.
    """
    model = _parsed(path)
    weights = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    sizes = (
        [dim.dim_value or None for dim in inputs[0].type.tensor_type.shape.dim] if inputs else []
    )
    if len(sizes) != 4:
        return None, None
    return sizes[1], sizes[2] if sizes[2] == sizes[3] else None


def _parsed(path: Path) -> onnx.ModelProto:
    """Return the model in a file, without the weights in others."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"The file {path} cannot be read: {error.strerror}.") from error
    if size > LARGEST_FILE:
        raise ModelError(f"The file {path} has {size} bytes, expected at most {LARGEST_FILE}.")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own, and whatever a hostile file provokes
        raise ModelError(f"The file {path} is no ONNX model: {first_line(error)}.") from error
    if not model.graph.node:
        raise ModelError(f"The file {path} is no ONNX model: it holds no operators.")
    return model


def _check_external(model: onnx.ModelProto, path: Path) -> None:
    folder = path.parent.resolve()
    for tensor in _tensors(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = next((one.value for one in tensor.external_data if one.key == "location"), "")
        data = path.parent / location
        if not location or folder not in data.resolve().parents:
            raise ModelError(
                f"The file {path} wants the weights '{tensor.name}' from '{location}', expected a file in its own folder."
            )
        if not data.is_file():
            raise ModelError(
                f"The file {path} needs {data} for the weights '{tensor.name}', which is not there; "
                "put it beside the file."
            )
    others = {
        path.parent / one.value
        for tensor in _tensors(model.graph)
        for one in tensor.external_data
        if one.key == "location"
    }
    total = path.stat().st_size + sum(one.stat().st_size for one in others)
    if total > LARGEST_FILE:
        raise ModelError(
            f"The file {path} has {total} bytes with its weights, expected at most {LARGEST_FILE}."
        )


def _check_operators(model: onnx.ModelProto, path: Path) -> None:
    nodes = list(model.graph.node)
    if len(nodes) > MOST_NODES:
        raise ModelError(f"The file {path} has {len(nodes)} nodes, expected at most {MOST_NODES}.")
    for node in nodes:
        if not isinstance(node.op_type, str):  # protobuf gives bytes where they are no text
            raise ModelError(f"The file {path} is damaged: the name of an operator is no text.")
        if node.domain not in ("", "ai.onnx"):
            raise ModelError(
                f"The file {path} holds {node.op_type} of the domain '{node.domain}', expected operators of ONNX; "
                "export it for no runtime in particular."
            )
        if node.op_type.startswith(_QUANTIZED):
            raise ModelError(
                f"The file {path} is quantized already ({node.op_type}); give the float network."
            )


def _check_tensors(model: onnx.ModelProto, path: Path) -> None:
    for value in (*model.graph.value_info, *model.graph.output):
        elements = 1
        for dim in value.type.tensor_type.shape.dim:
            elements *= dim.dim_value or 1
        if elements > LARGEST_TENSOR:
            raise ModelError(
                f"The tensor '{value.name}' in {path} has {elements} elements, expected at most {LARGEST_TENSOR}."
            )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors of a graph, and of the graphs in it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)
