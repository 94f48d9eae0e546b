"""From a module to a graph of ATen operators that writes into no tensor it has read."""

import copy
import traceback
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram

from mrecg.errors import CaptureError
from mrecg.graph.folding import fold_computed_weights, fold_written_constants

__all__ = ["capture", "export_frozen", "module_path"]


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
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    try:
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
    _make_functional(graph_module.graph)
    fold_computed_weights(graph_module)
    graph_module.recompile()
    return graph_module


def export_frozen(frozen: fx.GraphModule, example: Float[Tensor, "n ..."]) -> ExportedProgram:
    """The finished graph as a program whose operators still name the modules that they come from.

    Args:
        frozen: from `placement.freeze`.
        example: at least two inputs, on the device of the graph.
    """
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


def module_path(node: fx.Node) -> str:
    """The path of the innermost original module that `node` comes from; `""` is the model itself."""
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


def _explain(model: nn.Module, error: Exception) -> str:
    """One sentence about a failed export: the innermost module being called and the line in it."""
    names = {id(module): name or "the model itself" for name, module in model.named_modules()}
    culprit, line = "the model itself", ""
    for frame, lineno in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if id(owner) in names and frame.f_code.co_filename != nn.modules.module.__file__:
            culprit = names[id(owner)]
            summary = traceback.FrameSummary(frame.f_code.co_filename, lineno, frame.f_code.co_name)
            line = f", at '{summary.line}'" if summary.line else ""
    reason = next((text for text in str(error).splitlines() if text.strip()), type(error).__name__)
    return (
        f"The model cannot be exported: {type(error).__name__} in {culprit}{line}: "
        f"{reason.strip()[:300]} — torch.export must be able to trace the model's forward."
    )


def _drop_inference_no_ops(graph: fx.Graph) -> None:
    """Remove what does nothing outside training: dropout, and assertions, which hold a tensor to one device."""
    for node in list(graph.nodes):
        if node.target in (torch.ops.aten.dropout.default, torch.ops.aten.dropout_.default):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)


def _make_functional(graph: fx.Graph) -> None:
    """Replace every in-place operator by its functional form and redirect later readers to it."""
    for node in list(graph.nodes):
        if not isinstance(node.target, OpOverload) or not node.target._schema.is_mutable:
            continue
        replacement = _functional_form(node.target)
        changed = node.args[0] if node.args else None
        if replacement is None or not isinstance(changed, fx.Node):
            raise CaptureError(_in_place_message(node, "has no functional form"))
        if any(_is_read_after(alias, node) for alias in _aliases(changed)):
            raise CaptureError(_in_place_message(node, "changes a tensor that is read elsewhere"))
        with graph.inserting_before(node):
            functional = graph.call_function(replacement, node.args, node.kwargs)
        functional.meta = dict(node.meta)
        node.replace_all_uses_with(functional)
        for user in [user for user in changed.users if user > functional]:
            user.replace_input_with(changed, functional)
        graph.erase_node(node)


def _in_place_message(node: fx.Node, problem: str) -> str:
    where = module_path(node) or "the model itself"
    return (
        f"The in-place operator {node.target} in {where} {problem}; "
        "write the result into a new tensor instead."
    )


def _functional_form(operator: OpOverload) -> OpOverload | None:
    namespace, name = operator._schema.name.split("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    if packet is None or not name.endswith("_"):
        return None
    return getattr(packet, operator._overloadname, None)


def _is_view(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target.is_view


def _aliases(node: fx.Node) -> Iterator[fx.Node]:
    """Other nodes that may share memory with `node` through views."""
    root = node
    while _is_view(root) and isinstance(root.args[0], fx.Node):
        root = root.args[0]
    pending = [root]
    while pending:
        current = pending.pop()
        if current is not node:
            yield current
        pending += [user for user in current.users if _is_view(user) and user.args[0] is current]


def _is_read_after(alias: fx.Node, node: fx.Node) -> bool:
    return any(user > node for user in alias.users)
