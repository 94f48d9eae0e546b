"""`from_onnx`: an ONNX file as a float module that can be quantized."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import onnx
import onnx2fx
import onnxruntime
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from mrecg.conversion.onnx_files import read_onnx
from mrecg.conversion.onnx_folding import (
    DOMAIN,
    LINEAR,
    avoid_names_of_modules,
    fixed_batch,
    fold_sizes,
    input_shapes,
    write_linear_layers,
)
from mrecg.errors import ModelError, expect, reason_of

__all__ = ["from_onnx"]

LARGEST_ERROR = 1e-4
"""Of an output, relative to its largest number."""
_COMPARED = 2
"""ModelInputs that the module and the file are compared on."""
_MOST_NUMBERS = 64
"""Elements of a constant that is a size, a place or a factor rather than a weight."""


def from_onnx(
    path: str | Path, shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None
) -> nn.Module:
    """Return the float network of an ONNX file as a module that can be quantized.

    Its size is fixed, its batch is not. The module and ONNX Runtime are compared on random inputs first.

    Args:
        path: of the file; weights beside it are read, too.
        shape: of the input without the batch, such as `(3, 320, 320)`, where the file leaves it open; of several inputs,
            by name.

    Raises:
        ModelError: the file cannot be read, its network cannot be a module, or the module computes something else.
        ExportError: a package is missing.
    """
    expect(path, (str, Path), "The ONNX file", "name one", ModelError)
    file = Path(path)
    model = read_onnx(file)
    weights = {one.name for one in model.graph.initializer}
    names = [one.name for one in model.graph.input if one.name not in weights]
    kinds = (Sequence, Mapping, NoneType)
    expect(
        shape, kinds, "The shape", "give sizes without the batch, such as (3, 320, 320)", ModelError
    )
    if shape is not None and not isinstance(shape, Mapping):
        if len(names) != 1:
            raise ModelError(
                f"The file {file} takes {len(names)} inputs: {', '.join(names)}; give the shape of each by name."
            )
        shape = {names[0]: shape}
    shapes = input_shapes(model, file, shape or {})
    folded = fold_sizes(model, shapes, file)
    write_linear_layers(folded)
    avoid_names_of_modules(folded)
    module = _convert(folded, file)
    _compare(module, model, shapes, file)
    return module


def _convert(folded: onnx.ModelProto, file: Path) -> fx.GraphModule:
    onnx2fx.register_op(LINEAR, _linear, domain=DOMAIN)
    try:
        module: fx.GraphModule = onnx2fx.convert(folded)
    except Exception as error:  # a converter of others, on a file of others
        raise ModelError(
            f"The network in {file} cannot be a PyTorch module: {reason_of(error)}."
        ) from error
    _write_numbers(module)
    return module.eval()


def _linear(builder: Any, node: onnx.NodeProto) -> fx.Node:
    arguments = tuple(builder.get_value(name) for name in node.input)
    made: fx.Node = builder.call_function(functional.linear, args=arguments)
    return made


_TAKE_FACTORS: tuple[Callable[..., Any], ...] = (
    *(torch.add, torch.sub, torch.mul, torch.pow, torch.clamp),
)
_TAKE_SIZES = ("Reshape", "Resize", "Upsample", "Slice", "Split", "Expand", "Tile", "Pad")


def _write_numbers(module: fx.GraphModule) -> None:
    """Write small constants as numbers of Python: tracing sees no values of tensors, and sizes decide shapes."""
    graph = module.graph
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        value = getattr(module, str(node.target))
        if value.numel() > _MOST_NUMBERS:
            continue
        for user in list(node.users):
            if user.meta.get("onnx_op_type") in _TAKE_SIZES and node is not user.args[0]:
                _replace(user, node, value.tolist())
            elif user.target in _TAKE_FACTORS and value.numel() == 1:
                _put_factor(user, node, value.item())
    graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()


def _put_factor(user: fx.Node, constant: fx.Node, number: float) -> None:
    """Replace a constant by its number, as long as the operator still reads a tensor first."""
    others = [one for one in user.all_input_nodes if one is not constant]
    if user.args[0] is constant and user.target in (torch.add, torch.mul) and others:
        user.args = tuple(reversed(user.args))  # these two do not care about order
    if user.args[0] is not constant:
        _replace(user, constant, number)


def _replace(user: fx.Node, constant: fx.Node, number: Any) -> None:
    user.args = tuple(number if one is constant else one for one in user.args)
    user.kwargs = {key: number if one is constant else one for key, one in user.kwargs.items()}


def _compare(
    module: nn.Module, model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], file: Path
) -> None:
    """Refuse a module that computes something else than ONNX Runtime makes of the file.

    Raises:
        ModelError: naming the output.
    """
    generator = torch.Generator().manual_seed(0)
    given = {
        name: torch.randn(_COMPARED, *shape, generator=generator) for name, shape in shapes.items()
    }
    levels = onnxruntime.GraphOptimizationLevel
    try:
        wanted, optimized = (
            _run_file(model, given, level)
            for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_ALL)
        )
    except Exception as error:  # the runtime documents no narrower class
        raise ModelError(
            f"The network in {file} cannot run in ONNX Runtime: {reason_of(error)}."
        ) from error
    try:
        with torch.no_grad():
            made = module(*given.values())
    except Exception as error:  # code that was made from a file
        raise ModelError(
            f"The network in {file} cannot run on a batch of {_COMPARED}: {reason_of(error)}; export it with a dynamic "
            "batch on axis 0."
        ) from error
    values = list(made) if isinstance(made, tuple | list) else [made]
    for output, ours, theirs, others in zip(
        model.graph.output, values, wanted, optimized, strict=True
    ):
        largest = float(np.abs(theirs).max(initial=0)) or 1.0
        difference = _distance(ours.numpy(), theirs) / largest
        # What the runtime's own optimizations change is no fault of ours: a score of 1e-7 is mostly rounding.
        allowed = max(LARGEST_ERROR, 2 * _distance(others, theirs) / largest)
        if not difference <= allowed:
            raise ModelError(
                f"The output '{output.name}' of {file} differs from ONNX Runtime's by {difference:.2g} of its largest "
                f"number, expected at most {allowed:.2g}; quantize the network that the file was made from."
            )


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return math.inf
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0))


def _run_file(model: onnx.ModelProto, given: Mapping[str, Tensor], level: Any) -> list[np.ndarray]:
    """Run the file as it is; one whose batch is fixed runs image by image."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    fixed, images = fixed_batch(model), {name: value.numpy() for name, value in given.items()}
    if not fixed:
        return list(session.run(None, images))
    parts = [
        session.run(None, {name: value[[index] * fixed] for name, value in images.items()})
        for index in range(_COMPARED)
    ]
    return [np.concatenate([one[:1] for one in part]) for part in zip(*parts, strict=True)]
