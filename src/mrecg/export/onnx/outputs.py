"""Names of an ONNX graph: of its outputs, after what the model returns, and unique ones of everything else."""

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from mrecg.errors import ExportError, expect
from mrecg.graph.outputs import computed_outputs
from mrecg.runs.folder import QuantizedModel

__all__ = ["chosen_names", "make_names_unique", "name_outputs"]


def chosen_names(quantized: QuantizedModel, given: Sequence[str] | None) -> list[str]:
    """Return the names of the tensors that a model returns: those of its dictionaries, or the given ones.

    Raises:
        ExportError: what is given are no names, other than there are tensors, or one of them twice.
    """
    own = list(computed_outputs(quantized.program))
    if given is None:
        return own
    expect(given, (str, Iterable), "What names the outputs", "give a list of names", ExportError)
    names = [given] if isinstance(given, str) else list(given)
    for name in names:
        expect(name, str, "The name of an output", "give one for each output", ExportError)
    if len(names) != len(own) or len(set(names)) < len(names) or not all(names):
        raise ExportError(
            f"The output names are {', '.join(map(repr, names))}, expected {len(own)} different ones, for "
            f"{', '.join(own)}."
        )
    return names


def name_outputs(graph: ir.Graph, names: Sequence[str]) -> None:
    """Give the outputs of a graph names.

    An output that is an input, a constant, another output or a quantized tensor is passed on under a name of its own:
    the last one's name is how verification finds it.
    """
    taken = {value.name for value in graph.inputs}
    for position, wanted in enumerate(names):
        value, name = graph.outputs[position], wanted
        while name in taken:
            name += "_output"
        producer = value.producer()
        is_another = value in graph.outputs[:position]
        if producer is None or producer.op_type == "DequantizeLinear" or is_another:
            passing = ir.node("Identity", [value], name=f"{name}/output")
            passing.outputs[0].type, passing.outputs[0].shape = value.type, value.shape
            graph.append(passing)
            graph.outputs[position] = value = passing.outputs[0]
        value.name = name
        taken.add(name)


def make_names_unique(graph: ir.Graph) -> None:
    """Rename results of nodes that have the name of another value; a layer that is called twice makes some."""
    outputs = list(graph.outputs)
    taken = {value.name for value in (*graph.inputs, *graph.initializers.values(), *outputs)}
    for node in graph:
        for value in node.outputs:
            if value.is_graph_output():
                continue
            base, again = value.name, 1
            while value.name in taken:
                again += 1
                value.name = f"{base}_{again}"
            taken.add(value.name)
