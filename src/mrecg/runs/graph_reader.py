"""From a stored graph to a program, without executing anything that the file says beyond known operators' shapes."""

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from mrecg.errors import RunError, first_line
from mrecg.graph.capture import export_frozen
from mrecg.graph.captures import forget_captures
from mrecg.graph.inputs import NamedInputs
from mrecg.graph.outputs import structure_of
from mrecg.runs.bounds import SizeBounds, refuse
from mrecg.runs.graph_builder import DTYPES, GraphBuilder
from mrecg.runs.stored_graph import StoredGraph, is_path
from mrecg.torch_state import default_torch_modes

__all__ = ["rebuild"]


def rebuild(stored: StoredGraph, tensors: Mapping[str, Tensor]) -> ExportedProgram:
    """Return the program that a stored graph describes.

    Args:
        stored: its structure, of which `check_sizes` refused nothing.
        tensors: the parameters and buffers, unpacked, by name.

    Raises:
        RunError: the graph names something unknown, or its operators do not fit each other; the sentence is to
            follow the name of the file.
    """
    images = _example(stored)
    builder, root = GraphBuilder(stored), _placed(tensors, stored)
    try:
        with default_torch_modes(), forget_captures(), SizeBounds():
            program = export_frozen(fx.GraphModule(root, builder.graph), images)
    except RunError as error:  # of `SizeBounds`; fx adds lines of its own
        refuse(first_line(error))
    except Exception as error:  # neither fx nor torch.export documents a narrower class
        refuse(f"its operators do not fit each other ({type(error).__name__}: {first_line(error)})")
    # fx returns dictionaries and lists of its own.
    program.module_call_graph[0].signature.out_spec = structure_of(builder.output)
    return program


def _example(stored: StoredGraph) -> NamedInputs:
    """Return inputs for two images; nothing reads them, so that the system gives them no memory."""
    made = {}
    for one in stored.inputs:
        dtype = DTYPES.get(one.dtype)
        if dtype is None:
            refuse(f"its input is {one.dtype[:100]} of the shape {one.shape}")
        made[one.name] = torch.empty((2, *one.shape), dtype=dtype, device="cpu")
    return NamedInputs(made)


def _placed(tensors: Mapping[str, Tensor], stored: StoredGraph) -> nn.Module:
    """Return a tree of modules that holds the tensors under their names."""
    root = nn.Module()
    for name, spec in stored.tensors.items():
        if not is_path(name):
            refuse(f"a tensor has the name {name[:100]!r}")
        *path, attribute = name.split(".")
        owner = root
        try:
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner._modules[part]  # type: ignore[assignment]
            if spec.kind == "parameter":
                owner.register_parameter(
                    attribute, nn.Parameter(tensors[name], requires_grad=False)
                )
            else:
                owner.register_buffer(attribute, tensors[name], persistent=spec.kind == "buffer")
        except (KeyError, RuntimeError, TypeError):
            refuse(f"a tensor has the name {name[:100]!r}")
    return root
