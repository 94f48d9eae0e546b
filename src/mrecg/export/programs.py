"""Programs with other containers around what they return: file formats know fewer than a model may use."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument

from mrecg.graph.outputs import Structure, structure_of

__all__ = ["with_plain_containers", "without_constants"]


def without_constants(program: ExportedProgram) -> ExportedProgram:
    """Return a program that returns the tensors of another one in a tuple; `None` and numbers are left out."""
    specs = program.graph_signature.output_specs
    kept = [at for at, spec in enumerate(specs) if not isinstance(spec.arg, ConstantArgument)]
    if len(kept) == len(specs):
        return program
    return _returning(program, kept, structure_of(tuple(kept)))


def with_plain_containers(program: ExportedProgram) -> ExportedProgram:
    """Return a program whose containers have classes and keys that torch.export reads anywhere.

    A named tuple becomes a tuple, and a key that is a tuple a string: `disp_0` for `("disp", 0)`.
    """
    positions = list(range(len(program.graph_signature.output_specs)))
    structure = structure_of(_plain(program.call_spec.out_spec.unflatten(positions)))
    if structure == program.call_spec.out_spec:
        return program
    return _returning(program, positions, structure)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, list):
        return list(map(_plain, value))
    if isinstance(value, dict):
        pairs = ((_plain_key(key), _plain(one)) for key, one in value.items())
        return type(value)(pairs)
    return value


def _plain_key(key: Any) -> Any:
    return "_".join(str(_plain_key(part)) for part in key) if isinstance(key, tuple) else key


def _returning(
    program: ExportedProgram, kept: Sequence[int], structure: Structure
) -> ExportedProgram:
    """Return a program over the same tensors that returns some of another's outputs, in another structure."""
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        graph = copy.deepcopy(program.graph)  # torch's own pytree code warns when it is copied
    output = graph.output_node()
    returned: Any = output.args[0]
    output.args = (tuple(returned[at] for at in kept),)
    signature = copy.copy(program.graph_signature)
    signature.output_specs = [signature.output_specs[at] for at in kept]
    first, *others = program.module_call_graph
    assert first.signature is not None
    called = replace(first, signature=replace(first.signature, outputs=[], out_spec=structure))
    return ExportedProgram(
        root=program.graph_module,
        graph=graph,
        graph_signature=signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=[called, *others],
        constants=program.constants,
    )
