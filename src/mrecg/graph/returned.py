"""Results of a network, which leave it as they were computed even where a layer reads them quantized."""

from collections.abc import Container

from torch import fx

from mrecg.graph.layers import data_nodes, layers_of

__all__ = ["return_floats"]


def return_floats(module: fx.GraphModule, quantizers: Container[str]) -> None:
    """Let what is returned, directly or through operators of one tensor, read the tensor in front of a quantizer.

    A quantizer that only serves what is returned stays: it was asked for.

    Args:
        module: a graph with quantizers; changed in place.
        quantizers: names of those of activations.
    """
    leaving = _leaving(module.graph)
    for node in module.graph.nodes:
        if node.op != "call_module" or node.target not in quantizers:
            continue
        returned = [user for user in node.users if user in leaving]
        if len(returned) < len(node.users):
            for user in returned:
                user.replace_input_with(node, node.all_input_nodes[0])
    module.recompile()


def _leaving(graph: fx.Graph) -> set[fx.Node]:
    """Return the output and the operators of one tensor, layers aside, whose results reach nothing else."""
    data, layers = data_nodes(graph), frozenset(layers_of(graph))
    found = {graph.output_node()}
    for node in reversed(graph.nodes):
        alone = node not in layers and len(data.intersection(node.all_input_nodes)) == 1
        if node.users and alone and all(user in found for user in node.users):
            found.add(node)
    return found
