"""Bring an ONNX graph into the form that a module can be made of: one size of image, constants folded, layers as layers.

Files compute sizes from sizes. ONNX Runtime folds these for one size and one batch; done for two batches, what differs
between the results is what depends on the batch, and only that is made dynamic again.
"""

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from torch import nn

from mrecg.errors import ModelError, expect

__all__ = [
    "DOMAIN",
    "LINEAR",
    "avoid_names_of_modules",
    "fixed_batch",
    "fold_sizes",
    "input_shapes",
    "write_linear_layers",
]

DOMAIN = "mrecg"
LINEAR = "Linear"
"""An operator of our own: a product with a constant matrix, so that a converter makes a layer of it."""
_BATCHES = (2, 3)
_NOT_FOLDED = ["MatMulAddFusion"]  # it flattens tokens, and with them the batch
_EXPORTERS_OWN = re.compile(r"val_\d+")
_UNSHAPED = ("If", "Loop", "Scan", "NonMaxSuppression", "NonZero", "Unique")


def input_shapes(
    model: onnx.ModelProto, path: Path, given: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input without its batch: what is given, else what the file says.

    Raises:
        ModelError: an input is not float32, a size is neither in the file nor given, or the two differ.
    """
    weights = {one.name for one in model.graph.initializer}
    inputs = {one.name: one for one in model.graph.input if one.name not in weights}
    for name, shape in given.items():
        if name not in inputs:
            raise ModelError(
                f"The file {path} has no input '{name}'; its inputs: {', '.join(inputs)}."
            )
        _check_shape(shape, f"the input '{name}'")
    found: dict[str, tuple[int, ...]] = {}
    for name, value in inputs.items():
        kind = value.type.tensor_type
        if kind.elem_type != onnx.TensorProto.FLOAT:
            got = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
            raise ModelError(
                f"The input '{name}' of {path} is {got}, expected float32; export the network in float32."
            )
        own = [dim.dim_value for dim in kind.shape.dim[1:]]
        wanted = tuple(given.get(name, own))
        fits = len(wanted) == len(own) and all(
            a == b or not a for a, b in zip(own, wanted, strict=True)
        )
        if not own or not fits or not all(size > 0 for size in wanted):
            shown = "×".join(str(size or "?") for size in own)
            advice = "give its shape without the batch" if not given.get(name) else "give another"
            raise ModelError(
                f"The input '{name}' of {path} is {shown or 'no batch'}, got "
                f"{'×'.join(map(str, wanted)) if given.get(name) else 'no size'}; {advice}."
            )
        found[name] = wanted
    return found


def _check_shape(shape: Sequence[int], where: str) -> None:
    advice = "give sizes without the batch, such as (3, 320, 320)"
    expect(shape, Sequence, f"The shape of {where}", advice, ModelError)
    for size in shape:
        expect(size, int, f"A size of {where}", advice, ModelError)


def fold_sizes(
    model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], path: Path
) -> onnx.ModelProto:
    """Return the model for inputs of these shapes and any batch, with constants as initializers.

    Raises:
        ModelError: ONNX Runtime cannot load it, the batch is mixed with other sizes, or an operator gives results of no
            fixed shape.
    """
    fixed = fixed_batch(model)
    if fixed:
        model = _with_open_batch(_folded(model, shapes, fixed, path), fixed)
    one, other = (_folded(model, shapes, batch, path) for batch in _BATCHES)
    ours, theirs = _constants(one), _constants(other)
    if [n.op_type for n in one.graph.node] != [n.op_type for n in other.graph.node]:
        raise ModelError(f"The network in {path} is another for another batch.")
    for name in ours.keys() & theirs.keys():
        if np.array_equal(ours[name], theirs[name]):
            continue
        readers = [node.op_type for node in one.graph.node if name in node.input]
        if set(readers) == {"Resize"} and _differ_in_batch(ours[name], theirs[name]):
            continue  # a module resizes height and width, whatever the batch
        shape = _with_dynamic_batch(ours[name], theirs[name])
        if set(readers) != {"Reshape"} or shape is None:
            raise ModelError(
                f"The network in {path} mixes the batch with other sizes ({' and '.join(sorted(set(readers)))}); "
                "export it with a dynamic batch on axis 0."
            )
        _replace(one, name, shape)
    for node in one.graph.node:
        if node.op_type in _UNSHAPED:
            raise ModelError(
                f"The operator {node.op_type} in {path} gives results of no fixed shape; export the network without its "
                "post-processing."
            )
    return one


def fixed_batch(model: onnx.ModelProto) -> int:
    """Return the batch that a file fixes for its first input; 0 where it fixes none."""
    weights = {one.name for one in model.graph.initializer}
    first = next(one for one in model.graph.input if one.name not in weights)
    return int(first.type.tensor_type.shape.dim[0].dim_value)


def write_linear_layers(model: onnx.ModelProto) -> None:
    """Write products with constant matrices, and what is added to them, as one operator each."""
    graph = model.graph
    constants = _constants(model)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {one.name for one in graph.output}
    dropped: list[onnx.NodeProto] = []
    for node in graph.node:
        matrix, bias = _product(node, constants)
        if matrix is None:
            continue
        inputs = [node.input[0], _add(graph, f"{node.input[1]}_as_rows", matrix)]
        following = readers.get(node.output[0], [])
        if bias is None and len(following) == 1 and node.output[0] not in outputs:
            added = following[0]
            name = next((one for one in added.input if one != node.output[0]), "")
            value = constants.get(name)
            if added.op_type == "Add" and value is not None and value.shape == matrix.shape[:1]:
                bias = name
                node.output[0] = added.output[0]
                dropped.append(added)
        node.CopyFrom(
            helper.make_node(
                LINEAR,
                [*inputs, *([bias] if bias else [])],
                list(node.output),
                node.name,
                domain=DOMAIN,
            )
        )
    for node in dropped:
        graph.node.remove(node)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def avoid_names_of_modules(model: onnx.ModelProto) -> None:
    """Rename weights that are called like an attribute that every module has, such as `to`, or as torch's exporter calls
    values of its own: a file that is written later would hold two of that name.
    """
    taken = {
        one.name
        for one in model.graph.initializer
        if hasattr(nn.Module(), one.name) or _EXPORTERS_OWN.fullmatch(one.name)
    }
    for tensor in model.graph.initializer:
        if tensor.name in taken:
            tensor.name = f"{tensor.name}_weight"
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name in taken:
                node.input[place] = f"{name}_weight"


def _product(
    node: onnx.NodeProto, constants: Mapping[str, np.ndarray]
) -> tuple[np.ndarray | None, str | None]:
    """Return the matrix, output channels first, and the name of the bias, if a node is a linear layer."""
    if node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2 or node.input[0] in constants:
        return None, None
    matrix = constants.get(node.input[1])
    if matrix is None or matrix.ndim != 2:
        return None, None
    if node.op_type == "MatMul":
        return matrix.T, None
    settings = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    bias = node.input[2] if len(node.input) > 2 else None
    rows = matrix if settings.get("transB", 0) else matrix.T
    plain = not settings.get("transA", 0) and settings.get("alpha", 1.0) == 1.0
    plain = plain and settings.get("beta", 1.0) == 1.0
    fits = bias is None or (bias in constants and constants[bias].shape == rows.shape[:1])
    return (rows, bias) if plain and fits else (None, None)


def _folded(
    model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], batch: int, path: Path
) -> onnx.ModelProto:
    """Return what ONNX Runtime's basic optimization makes of a model for one batch."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for value in fixed.graph.input:
        if value.name in shapes:
            value.CopyFrom(
                helper.make_tensor_value_info(
                    value.name, onnx.TensorProto.FLOAT, [batch, *shapes[value.name]]
                )
            )
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        try:
            onnxruntime.InferenceSession(
                fixed.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_NOT_FOLDED,
            )
            return onnx.load(options.optimized_model_filepath)
        except Exception as error:  # the runtime documents no narrower class
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1][:300]
            raise ModelError(
                f"ONNX Runtime cannot load {path} for a batch of {batch}: {reason.rstrip('.')}; export the network with a "
                "dynamic batch."
            ) from error


def _with_open_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Return a folded model whose reshapes to a first axis of `batch` keep the first axis that they are given."""
    constants = _constants(model)
    for node in model.graph.node:
        target = constants.get(node.input[1]) if node.op_type == "Reshape" else None
        if target is None or target.ndim != 1 or len(target) < 2 or target[0] != batch:
            continue
        kept = target.copy()
        kept[0] = 0
        node.input[1] = _add(model.graph, f"{node.input[1]}_any_batch", kept)
    return model


def _with_dynamic_batch(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray | None:
    """Return the shape with 0 (as the input has it) or −1 (what is left) where two batches differ; `None` if that is not one place."""
    if ours.shape != theirs.shape or ours.ndim != 1:
        return None
    differing = np.flatnonzero(ours != theirs)
    if len(differing) != 1:
        return None
    (place,) = differing
    shape = ours.copy()
    if -1 not in shape:
        shape[place] = -1
        return shape
    shape[place] = 0
    return shape if place == 0 and tuple(ours[:1]) == _BATCHES[:1] else None


def _differ_in_batch(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Return whether two sizes are equal but for the batch on their first axis."""
    return (
        ours.shape == theirs.shape
        and np.array_equal(ours[1:], theirs[1:])
        and (ours[0], theirs[0]) == _BATCHES
    )


def _constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def _replace(model: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(array, name))


def _add(graph: onnx.GraphProto, name: str, array: np.ndarray) -> str:
    """Add an initializer, once for all that read it, and return its name."""
    if all(one.name != name for one in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return name
