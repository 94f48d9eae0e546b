"""From a module to a graph of ATen operators that writes into no tensor it has read."""

import contextlib
import copy
import io
import logging
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from mrecg.errors import CaptureError
from mrecg.graph.constant_folding import fold_computed_weights, fold_written_constants
from mrecg.graph.functionalize import make_functional

__all__ = ["capture", "export_frozen"]

_TORCH, _MODULES = Path(torch.__file__).parent, Path(nn.modules.__file__).parent


def capture(model: nn.Module, example: Float[Tensor, "n ..."]) -> fx.GraphModule:
    """Export `model` in evaluation mode, with a dynamic batch and without in-place operators.

    Args:
        model: any module that `torch.export` can trace and that takes one tensor; it is not changed.
        example: at least two inputs, on the device of the model.

    Returns:
        A graph module with the parameters' original names; every node carries `nn_module_stack`.

    Raises:
        CaptureError: the model cannot be exported, or an in-place operator has no functional form;
            the message names the operator and the module at fault.
    """
    copied = _copy(model).eval().requires_grad_(False)
    try:
        with _quiet():
            program = torch.export.export(
                copied, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
            )
    except Exception as error:  # torch.export documents no narrower class
        raise CaptureError(_explain(copied, error)) from error
    graph_module = program.module(check_guards=False)
    if not isinstance(graph_module, fx.GraphModule):
        raise CaptureError(f"torch.export gave a {type(graph_module).__name__}, expected a graph.")
    _drop_inference_no_ops(graph_module.graph)
    fold_written_constants(graph_module)
    make_functional(graph_module.graph)
    _allow_any_layout(graph_module.graph)
    fold_computed_weights(graph_module)
    graph_module.recompile()
    return graph_module


def export_frozen(frozen: fx.GraphModule, example: Float[Tensor, "n ..."]) -> ExportedProgram:
    """The finished graph as a program whose operators still name the modules that they come from.

    Args:
        frozen: from `placement.freeze`.
        example: at least two inputs, on the device of the graph.
    """
    with _quiet():
        program = torch.export.export(
            frozen, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
        )
    _drop_inference_no_ops(program.graph)
    for node in program.graph.nodes:
        for key in ("stack_trace", "torch_fn", "custom"):  # of mrecg's own files and of the tracer
            node.meta.pop(key, None)
    program.graph_module.recompile()
    program.example_inputs = None  # a caller's images
    return program


def _copy(model: nn.Module) -> nn.Module:
    """A copy; tensors that the model computed and remembers come without their history, which cannot be copied.

    Raises:
        CaptureError: something in it cannot be copied.
    """
    remembered = (value for module in model.modules() for value in vars(module).values())
    memo: dict[int, object] = {
        id(value): value.detach().clone()
        for value in remembered
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # attributes may be anything
        raise CaptureError(
            f"The model cannot be copied: {type(error).__name__}: {str(error).splitlines()[0]}; "
            "take the attribute that cannot off the model."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the graphs that torch.export logs and prints when it fails: the error says what is wrong.

    Nor does it matter what the copy remembers, such as a weight that is computed before each call.
    """
    before = logging.root.manager.disable
    logging.disable(max(before, logging.ERROR))
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="The tensor attributes? .* assigned during export"
            )
            yield
    finally:
        logging.disable(before)


def _explain(model: nn.Module, error: Exception) -> str:
    """One sentence about a failed export: the innermost module being called and the line in it."""
    names = {id(module): name or "the model itself" for name, module in model.named_modules()}
    culprit, line = "the model itself", ""
    for frame, lineno in traceback.walk_tb(error.__traceback__):
        owner = next(iter(frame.f_locals.values()), None)  # self, whatever it is called
        if id(owner) in names and _may_hold_a_forward(Path(frame.f_code.co_filename)):
            culprit = names[id(owner)]
            summary = traceback.FrameSummary(frame.f_code.co_filename, lineno, frame.f_code.co_name)
            line = f", at '{summary.line}'" if summary.line else ""
    reason = next((text for text in str(error).splitlines() if text.strip()), type(error).__name__)
    return (
        f"The model cannot be exported: {type(error).__name__} in {culprit}{line}: "
        f"{reason.strip()[:300]} — torch.export must be able to trace the model's forward."
    )


def _may_hold_a_forward(file: Path) -> bool:
    """Whether a function in it that is given a module may be the module's own."""
    if _MODULES in file.parents:
        return file.name != "module.py"
    return _TORCH not in file.parents


def _drop_inference_no_ops(graph: fx.Graph) -> None:
    """Remove what does nothing outside training: dropout, and assertions, which hold a tensor to one device."""
    for node in list(graph.nodes):
        if node.target in (torch.ops.aten.dropout.default, torch.ops.aten.dropout_.default):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)


def _allow_any_layout(graph: fx.Graph) -> None:
    """A view needs the memory layout that the model was written for; reshaping gives the same numbers in any."""
    for node in graph.nodes:
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
