"""Insert quantizers into a captured graph, and replace them by results when these are final.

`insert_quantizers` runs torchao's PT2E preparation (batch norm folding, insertion of observers) with any PT2E `Quantizer`
and replaces the observers by markers, modules that return their input: what a quantizer does and knows is kept outside of
the graph. This module is the only one that imports torchao's PT2E.
"""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import torch
from torch import Tensor, fx, nn

from mrecg.errors import CaptureError
from mrecg.graph.batch_norm import insert_folding_barriers, remove_folding_barriers
from mrecg.graph.blocks import free_name
from mrecg.graph.layers import CONVOLUTIONS_AND_PRODUCTS, data_nodes, layer_name, module_path


@contextlib.contextmanager
def _quiet_torchao() -> Iterator[None]:
    """Silence torchao's reports of CUDA libraries that a CPU build of torch does not have; warnings still pass."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


with _quiet_torchao():
    import torch.ao.quantization.fx.utils
    import torchao.utils
    from torchao.quantization.pt2e import (
        DerivedObserverOrFakeQuantize,
        MinMaxObserver,
        ObserverBase,
        PerChannelMinMaxObserver,
    )
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
    from torchao.quantization.pt2e.quantizer import (
        QuantizationAnnotation,
        QuantizationSpec,
        Quantizer,
    )

__all__ = [
    "MinMaxObserver",
    "PerChannelMinMaxObserver",
    "PlacedQuantizer",
    "QuantizationAnnotation",
    "QuantizationSpec",
    "Quantizer",
    "QuantizerRequest",
    "freeze",
    "insert_quantizers",
]


def _release_models() -> None:
    """Clear torchao's `lru_cache`s over modules, which would keep every prepared model alive until the process ends."""
    for module in (torchao.utils, torch.ao.quantization.fx.utils):
        for name in ("_assert_and_get_unique_device", "assert_and_get_unique_device"):
            clear = getattr(getattr(module, name, None), "cache_clear", None)
            if (
                clear is not None
            ):  # which of the functions exist, and which are cached, differs by torchao's version
                clear()


@dataclass(frozen=True)
class QuantizerRequest:
    """One request of a PT2E quantizer: a grid of integers for one tensor, and its granularity.

    Attributes:
        low: lowest code.
        high: highest code.
        symmetric: whether the zero point is fixed.
        channel_axis: the axis with a scale for each index; `None` for one scale per tensor.
        fixed: scale and zero point, where the quantizer prescribes them.
    """

    low: int
    high: int
    symmetric: bool
    channel_axis: int | None
    fixed: tuple[float, int] | None = None

    @property
    def bits(self) -> int:
        """Return the number of bits that holds the grid's codes."""
        return (self.high - self.low).bit_length()


@dataclass(frozen=True)
class PlacedQuantizer:
    """A quantizer in the graph.

    Attributes:
        name: name of its submodule, and of the first graph node that calls it.
        tensor: the parameter's name for a weight; for an activation `module:node`, the module that computes it first.
        readers: names of the layers that read the quantized tensor.
        is_weight: whether the tensor is a constant of the graph.
        request: its grid.
    """

    name: str
    tensor: str
    readers: tuple[str, ...]
    is_weight: bool
    request: QuantizerRequest


def insert_quantizers(
    captured: fx.GraphModule,
    quantizer: Quantizer,
) -> tuple[fx.GraphModule, tuple[PlacedQuantizer, ...]]:
    """Fold batch norms and insert quantizers where `quantizer` annotates the graph.

    Args:
        captured: from `capture.capture_graph`; consumed.
        quantizer: any PT2E quantizer with static integer specifications.

    Returns:
        The graph with a marker at every quantizer, and the list of quantizers in graph order.

    Raises:
        CaptureError: an annotation asks for something that cannot be reconstructed.
    """
    insert_folding_barriers(captured)
    with _quiet_torchao():
        prepared = prepare_pt2e(captured, quantizer)
    _release_models()
    remove_folding_barriers(prepared)
    placed = _place(prepared)
    prepared.delete_all_unused_submodules()
    prepared.recompile()
    prepared.requires_grad_(False)  # folding makes new parameters, and parameters require gradients
    return prepared, placed


def _place(prepared: fx.GraphModule) -> tuple[PlacedQuantizer, ...]:
    """Put a marker in the place of every observer, and return the quantizers in graph order."""
    computed = data_nodes(prepared.graph)
    inserted: dict[object, PlacedQuantizer] = {}
    for node, observer in _observed(prepared):
        source = node.args[0]
        if not isinstance(source, fx.Node) or isinstance(observer, DerivedObserverOrFakeQuantize):
            # The grid of a bias, derived from two others, has no range of its own.
            _erase(prepared.graph, node)
            continue
        request = _request(observer, node)
        is_weight = source not in computed
        # One module per weight (a layer may be called twice) and per shared observer.
        key = ("weight", source.target) if is_weight else ("activation", id(observer))
        if key not in inserted:
            name = free_name(prepared, f"quantize_{source.name}")
            if is_weight:
                _check_constant(source)
            prepared.add_submodule(name, nn.Identity())
            tensor = str(source.target) if is_weight else _tensor_label(source)
            inserted[key] = PlacedQuantizer(name, tensor, (), is_weight, request)
        node.target = inserted[key].name
        inserted[key] = _add_readers(inserted[key], node, request)
    return tuple(inserted.values())


def _observed(prepared: fx.GraphModule) -> list[tuple[fx.Node, ObserverBase]]:
    """Return the calls of observers that torchao inserted.

    Raises:
        CaptureError: the quantizer brings a module that is no observer of torchao, such as one of `torch.ao`.
    """
    # A shared observer is one module under several names; by default only the first name would be found.
    modules = dict(prepared.named_modules(remove_duplicate=False))
    found = []
    for node in prepared.graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, ObserverBase):
            found.append((node, module))
        elif module is not None:
            raise CaptureError(
                f"The quantizer puts a {type(module).__module__}.{type(module).__name__} at '{node.args[0]}', expected "
                "an observer of torchao.quantization.pt2e; use a quantizer that is made for torchao, without QAT."
            )
    return found


def _add_readers(
    placed: PlacedQuantizer, node: fx.Node, request: QuantizerRequest
) -> PlacedQuantizer:
    """Add the layers that read `node`, a call of `placed`, to its readers."""
    if placed.is_weight and request != placed.request:
        raise CaptureError(
            f"The quantizer asks for two grids of one weight, '{placed.tensor}': {_described(placed.request)} and "
            f"{_described(request)}; give the layers that share it the same."
        )
    readers = [layer_name(user) for user in node.users if user.target in CONVOLUTIONS_AND_PRODUCTS]
    return replace(placed, readers=tuple(dict.fromkeys([*placed.readers, *readers])))


def _described(request: QuantizerRequest) -> str:
    axis = request.channel_axis
    scales = "one scale" if axis is None else f"a scale for each index of axis {axis}"
    kind = "symmetric" if request.symmetric else "asymmetric"
    return f"{kind} codes from {request.low} to {request.high} with {scales}"


def _tensor_label(source: fx.Node) -> str:
    path = module_path(source)
    return f"{path}:{source.name}" if path else source.name


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    graph.erase_node(node)


def _check_constant(node: fx.Node) -> None:
    if node.op != "get_attr":
        raise CaptureError(
            f"The weight '{node.name}' is computed by {node.target}, expected a parameter; "
            "fold the computation into the parameter or leave the layer in float."
        )


def _request(observer: ObserverBase, node: fx.Node) -> QuantizerRequest:
    if getattr(observer, "is_dynamic", False):
        raise CaptureError(
            f"The quantizer asks for dynamic quantization at '{node.args[0]}'; use static."
        )
    fixed = None
    # By name: torch's and torchao's classes of that name are not related.
    if type(observer).__name__ == "FixedQParamsObserver":
        fixed = (float(observer.scale), int(observer.zero_point))
    scheme = observer.qscheme
    per_channel = scheme in (torch.per_channel_affine, torch.per_channel_symmetric)
    return QuantizerRequest(
        low=int(observer.quant_min),
        high=int(observer.quant_max),
        symmetric=scheme in (torch.per_tensor_symmetric, torch.per_channel_symmetric),
        channel_axis=int(observer.ch_axis) if per_channel else None,
        fixed=fixed,
    )


def freeze(
    placed: fx.GraphModule,
    quantizers: Sequence[PlacedQuantizer],
    results: Mapping[str, nn.Module],
    constants: Mapping[str, Tensor],
) -> fx.GraphModule:
    """Return a copy of a graph with results in the place of quantizers; the float weights are left out.

    Args:
        placed: from `insert_quantizers`; it is not changed.
        quantizers: its list.
        results: for each quantizer's name, a module that gives the quantized tensor; a weight's takes no input.
        constants: new values of parameters, by path.
    """
    weights = {quantizer.name: quantizer for quantizer in quantizers if quantizer.is_weight}
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        graph = copy.deepcopy(placed.graph)  # torch's own pytree code warns when it is copied
    modules: dict[str, nn.Module] = {}
    for node in graph.nodes:
        if node.op != "call_module" or node.target not in results:
            continue
        name = str(node.target)
        if name in weights:
            owner, _, attribute = weights[name].tensor.rpartition(".")
            node.target = f"{owner}.quantized_{attribute}" if owner else f"quantized_{attribute}"
            node.args = ()
        modules[str(node.target)] = results[name]
    read = {str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module")}
    # Copies, because the caller gives the tensors of the result another memory layout.
    attributes = {path: copy.deepcopy(attrgetter(path)(placed)) for path in read - modules.keys()}
    for path in constants.keys() & attributes.keys():
        attributes[path] = nn.Parameter(constants[path], requires_grad=False)
    frozen = fx.GraphModule(modules | attributes, graph).train(placed.training)
    frozen.graph.eliminate_dead_code()
    frozen.recompile()
    # A new module takes along only what the graph still refers to: no float weight stays behind.
    return fx.GraphModule(frozen, frozen.graph)
