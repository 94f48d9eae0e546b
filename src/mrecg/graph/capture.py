"""Export a module as a graph of ATen operators without in-place operators."""

import contextlib
import copy
import io
import keyword
import logging
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from mrecg.collection import collection_paused
from mrecg.errors import CaptureError, first_line
from mrecg.graph.batch_axis import batch_symbols, refuse_combined_images
from mrecg.graph.batch_norm import ignore_running_statistics
from mrecg.graph.captures import release_inputs
from mrecg.graph.constant_folding import fold_computed_weights, fold_mutated_constants
from mrecg.graph.functionalize import make_functional
from mrecg.graph.inlining import inline_wrapped
from mrecg.graph.inputs import ModelInputs, NamedInputs, by_position, takes_any_number, tensors_of
from mrecg.graph.outputs import plain_outputs
from mrecg.graph.own_numbers import read_numbers
from mrecg.graph.randomness import is_repeatable, refuse_random

__all__ = ["capture_graph", "export_frozen"]

_DROPOUTS = (torch.ops.aten.dropout.default, torch.ops.aten.dropout_.default)
_READS = (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default)
"""Operators that give a number that torch.export does not know."""
_BATCH_IS_FIXED = "Constraints violated"
"""What torch.export says where the one dynamic length, the batch, cannot have every size."""
_LARGE_BATCH = 1024
"""A bound below is a slice of the batch; torch's own, such as 32-bit indices, are far above."""
_TORCH, _MODULES = Path(torch.__file__).parent, Path(nn.modules.__file__).parent


def capture_graph(model: nn.Module, example: ModelInputs) -> fx.GraphModule:
    """Export `model` in evaluation mode, with a dynamic batch and without in-place operators.

    Args:
        model: any module that `torch.export` can trace; it is not changed.
        example: inputs for at least two images, on the device of the model: torch.export takes a batch of one for a constant.

    Returns:
        A graph module with the parameters' original names, which takes its inputs one after the other; every node carries
        `nn_module_stack`.

    Raises:
        CaptureError: the model cannot be exported, or an in-place operator has no functional form;
            the message names the operator and the module at fault. Or it combines images of a batch.
    """
    copied = _copy(model).eval().requires_grad_(False)
    if isinstance(example, NamedInputs) or takes_any_number(copied):
        by_position(copied, example)
    copied.register_forward_hook(lambda module, inputs, returned: plain_outputs(returned))
    program = _traced(copied, example)
    _refuse_fixed_batch(program)
    # Guards would refuse inputs that differ from the example in more than the batch's size, and are calls in the graph.
    try:
        graph_module = program.module(check_guards=False)
    except SyntaxError as error:  # torch writes the names of modules into a function
        raise CaptureError(_explain_keyword(model)) from error
    if not isinstance(graph_module, fx.GraphModule):
        raise CaptureError(f"torch.export gave a {type(graph_module).__name__}, expected a graph.")
    inline_wrapped(graph_module)
    _drop_inference_no_ops(graph_module.graph)
    refuse_random(graph_module.graph)
    refuse_combined_images(graph_module.graph)
    ignore_running_statistics(graph_module.graph)
    fold_mutated_constants(graph_module)
    make_functional(graph_module.graph)
    _allow_any_layout(graph_module.graph)
    fold_computed_weights(graph_module)
    graph_module.recompile()
    return graph_module


def _traced(model: nn.Module, example: ModelInputs) -> ExportedProgram:
    """Export a model; where it reads numbers off tensors of its own, with the numbers that it reads."""
    failure: Exception | None = None
    try:
        program = _export(model, example)
        if not any(node.target in _READS for node in program.graph.nodes):
            return program
    except CaptureError:
        raise
    except Exception as error:  # torch.export documents no narrower class
        failure = error
    try:
        with read_numbers(model, tensors_of(example)):
            return _export(model, example)
    except Exception as error:
        cause = failure or error
        raise CaptureError(_explain(model, cause)) from cause


def _export(model: nn.Module, example: ModelInputs) -> ExportedProgram:
    given = tensors_of(example)
    with _quiet(), collection_paused():
        program = torch.export.export(
            model, given, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},) * len(given)
        )
    release_inputs(program)
    return program


def export_frozen(frozen: fx.GraphModule, example: ModelInputs) -> ExportedProgram:
    """Export the finished graph as a program whose operators still name the modules that they come from.

    Args:
        frozen: from `insert.freeze`.
        example: inputs for at least two images, on the device of the graph.
    """
    program = _export(frozen, example)
    _drop_inference_no_ops(program.graph)
    for node in program.graph.nodes:
        for key in ("stack_trace", "torch_fn", "custom"):  # of mrecg's own files and of the tracer
            node.meta.pop(key, None)
    program.graph_module.recompile()
    program.example_inputs = None  # a caller's images
    return program


def _copy(model: nn.Module) -> nn.Module:
    """Copy a model; tensors that it computed and keeps as attributes are detached, because autograd's graph cannot be copied.

    Raises:
        CaptureError: something in it cannot be copied.
    """
    attributes = (value for module in model.modules() for value in vars(module).values())
    memo: dict[int, object] = {
        id(value): value.detach().clone()
        for value in attributes
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # attributes may be anything
        raise CaptureError(
            f"The model cannot be copied: {type(error).__name__}: {first_line(error)}; "
            "remove the attribute that cannot be copied from the model."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the graphs that torch.export logs and prints when it fails: our error names the cause.

    Its warning about attributes that the forward assigns is silenced, too: it concerns a copy that is used only here.
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
    """Explain a failed export in one sentence: the innermost module that was called and the line in it."""
    names = {id(module): name or "the model itself" for name, module in model.named_modules()}
    culprit, line = "the model itself", ""
    for frame, lineno in traceback.walk_tb(error.__traceback__):
        owner = next(iter(frame.f_locals.values()), None)  # self, whatever it is called
        if id(owner) in names and _may_hold_a_forward(Path(frame.f_code.co_filename)):
            culprit = names[id(owner)]
            summary = traceback.FrameSummary(frame.f_code.co_filename, lineno, frame.f_code.co_name)
            line = f", at '{summary.line}'" if summary.line else ""
    if _BATCH_IS_FIXED in str(error):
        return (
            "The model cannot be exported: its forward asks for a certain number of images, or combines images of a batch, "
            "expected a result for each image of a batch of any size; write x.shape[0] in the place of a fixed number, "
            "and move what several images have in common out of the model."
        )
    reason = next((text for text in str(error).splitlines() if text.strip()), type(error).__name__)
    return (
        f"The model cannot be exported: {type(error).__name__} in {culprit}{line}: "
        f"{reason.strip()[:300]} — torch.export must be able to trace the model's forward."
    )


def _refuse_fixed_batch(program: ExportedProgram) -> None:
    """Refuse a model that takes some of a batch's images, or takes only small batches.

    Raises:
        CaptureError: torch.export bounded the size of the batch.
    """
    batch = batch_symbols(program.graph)
    limits = (limit for symbol, limit in program.range_constraints.items() if symbol in batch)
    if any(limit.upper < _LARGE_BATCH for limit in limits):
        raise CaptureError(
            "The model's forward takes a fixed number of a batch's images, expected a result for each image of a batch "
            "of any size; choose among images outside of the model."
        )


def _explain_keyword(model: nn.Module) -> str:
    owned = (*model.named_modules(), *model.named_parameters(), *model.named_buffers())
    names = [name for name, _ in owned if any(map(keyword.iskeyword, name.split(".")))]
    return (
        f"The model cannot be exported: '{names[0] if names else 'a module'}' is named by a word of the language Python, "
        "which torch cannot write into a function; rename it."
    )


def _may_hold_a_forward(file: Path) -> bool:
    """Return whether a frame in `file` may be a module's own forward, and not torch or this room passing the module around."""
    if _MODULES in file.parents:
        return file.name != "module.py"
    return _TORCH not in file.parents and file.parent != Path(__file__).parent


def _drop_inference_no_ops(graph: fx.Graph) -> None:
    """Remove dropout, which does nothing in evaluation mode, and metadata assertions, which would pin the graph to one device."""
    for node in list(graph.nodes):
        if node.target in _DROPOUTS and is_repeatable(node.target, node.args, node.kwargs):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)


def _allow_any_layout(graph: fx.Graph) -> None:
    """Replace `view` by `reshape`: a view fails in memory layouts other than the one that the model was written for."""
    for node in graph.nodes:
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
