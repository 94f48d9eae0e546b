"""Files that take images of any height and width, for networks that are convolutions and the like throughout."""

import copy
import warnings
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, fx

from mrecg.errors import ExportError, reason_of
from mrecg.export.comparison import OutputComparison
from mrecg.export.onnx.graphs import add_constant
from mrecg.export.onnx.runtimes import open_file, products_saturate
from mrecg.export.onnx.tracing import computed
from mrecg.graph.operators import operator_of
from mrecg.runs.folder import QuantizedModel

__all__ = ["check_other_sizes", "open_sizes"]

LARGEST_ERROR = 0.02
"""Of an output at another size, relative to its power, and the fraction of integers or booleans that differ: numbers between
two codes round to either side."""
_GROWN = ((1, 2), (2, 1))
"""Factors of height and width that a file is tried at."""
_RESIZES = frozenset(
    {torch.ops.aten.upsample_nearest2d, torch.ops.aten.upsample_bilinear2d, torch.ops.aten.upsample_bicubic2d}
)  # fmt: skip


def open_sizes(graph: ir.Graph) -> None:
    """Leave height and width of the images open, and write resizing to a multiple of a size as resizing by that factor.

    Raises:
        ExportError: the input is no image, or something is resized to a size that is no multiple.
    """
    image = graph.inputs[0]
    if len(graph.inputs) > 1:
        raise ExportError(
            f"The network takes {len(graph.inputs)} inputs, and a dynamic size is tried for one only; leave out dynamic_size."
        )
    if image.shape is None or len(image.shape) != 4:
        raise ExportError(
            "The network's input has no height and width, so no size can be dynamic; leave out dynamic_size."
        )
    for node in [node for node in graph if node.op_type == "Resize"]:
        source, result = node.inputs[0], node.outputs[0]
        if len(node.inputs) < 4 or node.inputs[3] is None:
            continue
        factors = _factors(source.shape if source else None, result.shape)
        if factors is None:
            raise _fixed(
                image.shape[2],
                image.shape[3],
                f"'{node.name}' resizes to a size that is no multiple",
            )
        scales = np.array([1, 1, *factors], np.float32)
        node.resize_inputs(3)
        node.replace_input_with(1, None)
        node.replace_input_with(
            2, add_constant(graph, f"{node.name}/scales", scales, ir.DataType.FLOAT)
        )
    image.shape = ir.Shape([image.shape[0], image.shape[1], "height", "width"])
    # An output must have a shape; which of its sizes follow the image's is not known.
    for value in graph.outputs:
        if value.shape is not None:
            value.shape = ir.Shape([None if isinstance(one, int) else one for one in value.shape])


def check_other_sizes(quantized: QuantizedModel, file: Path) -> None:
    """Run a file and the simulation on images of other sizes, and compare.

    Raises:
        ExportError: one of them takes no other size, or they differ.
    """
    assert isinstance(quantized.model, fx.GraphModule)
    model = _with_factors(quantized.model)
    channels, height, width = quantized.record.input_shape
    for tall, wide in _GROWN:
        shape = (2, channels, height * tall, width * wide)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        try:
            with torch.inference_mode():
                wanted = computed(model, model(images))
            run = open_file("onnxruntime", file, in_integers=not products_saturate())
            made = run(images.numpy())
        except Exception as error:  # of the runtime, or of operators whose sizes do not fit
            raise _fixed(height, width, reason_of(error)) from error
        for ours, theirs in zip(made, wanted, strict=True):
            problem = _difference(theirs, torch.from_numpy(np.asarray(ours)))
            if problem is not None:
                raise _fixed(height, width, f"at {height * tall}×{width * wide} {problem}")


def _difference(simulated: Tensor, made: Tensor) -> str | None:
    """Return what is wrong with an output of the file, or `None`."""
    found = OutputComparison()
    try:
        found.add(simulated, made)
    except ValueError as error:
        return f"the file gives {error}"
    different = 0.0 if found.agreement is None else 1 - found.agreement / 100
    distance = max(found.relative_error, different)
    if distance <= LARGEST_ERROR:
        return None
    return f"the file differs from the simulation by {distance:.2g}"


def _fixed(height: object, width: object, reason: str) -> ExportError:
    return ExportError(
        f"The network takes images of {height}×{width} only: {reason}; export it without dynamic_size."
    )


def _factors(before: ir.Shape | None, after: ir.Shape | None) -> tuple[int, int] | None:
    """Return by which whole factors height and width grow, or `None`."""
    if before is None or after is None or len(before) != 4:
        return None
    sizes = [(before[axis], after[axis]) for axis in (2, 3)]
    if not all(isinstance(a, int) and isinstance(b, int) and b % a == 0 for a, b in sizes):
        return None
    return sizes[0][1] // sizes[0][0], sizes[1][1] // sizes[1][0]


def _with_factors(model: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of the simulation that resizes by whole factors where it resized to a size."""
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        copied = copy.deepcopy(model)  # torch's own pytree code warns when it is copied
    for node in copied.graph.nodes:
        if operator_of(node) not in _RESIZES or node.args[1] is None:
            continue
        before, after = (one.meta["val"].shape[2:] for one in (node.args[0], node))
        if all(b % a == 0 for a, b in zip(before, after, strict=True)):
            factors = [float(b // a) for a, b in zip(before, after, strict=True)]
            node.args = (node.args[0], None, *node.args[2:-1], factors)
    copied.recompile()
    return copied
