"""Put what torch.export wraps in subgraphs back into the graph: a layer in a subgraph would stay float, unseen."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx

from mrecg.errors import CaptureError
from mrecg.graph.layers import module_path

__all__ = ["inline_wrapped"]

_GRAPH_POSITIONS: Mapping[str, int] = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}
"""Where a wrapping operator has its subgraph; operands follow, a mode's settings come before."""
_HALF = (torch.float16, torch.bfloat16)


def inline_wrapped(module: fx.GraphModule) -> None:
    """Replace wrapped subgraphs by their operators; `module` is changed in place.

    torch.export wraps what runs under `no_grad` or `autocast`. The first changes no evaluation. The second is left out: a
    quantized network simulates a float32 one, and what no grid rounds is computed in float32.

    Raises:
        CaptureError: a subgraph is there for another reason, such as `torch.cond`.
    """
    for node in list(module.graph.nodes):
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            _inline(module, node)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()


def _inline(module: fx.GraphModule, node: fx.Node) -> None:
    name, args = str(node.target), cast("tuple[Any, ...]", node.args)
    if name not in _GRAPH_POSITIONS:
        raise CaptureError(
            f"The model's {module_path(node) or 'own forward'} runs a part under torch's operator '{name}', whose layers "
            "cannot be quantized; write that part as plain operators, without control flow that depends on values."
        )
    position = _GRAPH_POSITIONS[name]
    inner = module.get_submodule(str(args[position].target))
    assert isinstance(inner, fx.GraphModule)
    inline_wrapped(inner)
    if name == "wrap_with_autocast":
        _compute_in_float32(inner.graph)
    starts = [one for one in inner.graph.nodes if one.op == "placeholder"]
    known = dict(zip(starts, args[position + 1 :], strict=True))
    with module.graph.inserting_before(node):
        results = cast("tuple[fx.Node, ...]", module.graph.graph_copy(inner.graph, known))
    for reader in list(node.users):
        reader.replace_all_uses_with(results[reader.args[1]])  # type: ignore[index]
        module.graph.erase_node(reader)
    module.graph.erase_node(node)


def _compute_in_float32(graph: fx.Graph) -> None:
    """Let operators that ran under autocast give float32, the casts of the model's own included."""
    for node in graph.nodes:
        node.args = fx.node.map_aggregate(node.args, _widened)
        node.kwargs = fx.node.map_aggregate(node.kwargs, _widened)
        if node.op == "call_function":
            node.meta["val"] = fx.node.map_aggregate(node.meta.get("val"), _widened)


def _widened(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return torch.float32 if value in _HALF else value
    return value.float() if isinstance(value, Tensor) and value.dtype in _HALF else value
