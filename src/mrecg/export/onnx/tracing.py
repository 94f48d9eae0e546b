"""Compare a file with the simulation, layer by layer on the same codes.

Two programs that add floats in different order round a number between two codes to different sides now and
then; what follows differs, too, and no layer is to blame. So the simulation is given the file's codes behind every
quantizer: what is left is each layer's own difference.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, fx

from mrecg.graph.inputs import ModelInputs, tensors_of
from mrecg.graph.layers import LAYER_OPERATORS, module_path
from mrecg.graph.outputs import flatten

__all__ = [
    "Replay",
    "Rounding",
    "computed",
    "expose_codes",
    "output_resolution",
    "returned_nodes",
]

_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
_DEQUANTIZE_WEIGHT = torch.ops.quantized_decomposed.dequantize_per_channel.default
_REORDERINGS = (torch.ops.aten.reshape.default, torch.ops.aten.transpose.int)
_EPSILON = torch.finfo(torch.float32).eps


def expose_codes(path: Path, target: Path) -> dict[str, str]:
    """Write a copy of a file that also gives the codes of every activation.

    Returns:
        The name of the output with the codes, by the node of the simulation that dequantizes them.
    """
    model = onnx.load(path)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    exposed: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] in types:
            continue
        codes = node.input[0]
        if codes not in exposed.values():
            info = onnx.helper.make_tensor_value_info(codes, types[node.input[2]], None)
            model.graph.output.append(info)
        exposed[node.output[0]] = codes
    onnx.save(model, target)
    return exposed


@dataclass
class Rounding:
    """Hold how one quantizer of the file rounded, compared with the simulation given the same codes before it.

    Attributes:
        layer: whose result is rounded.
        levels: the distance of the largest code to the smallest.
        distance: the largest distance of a code to the simulated number, in units of the scale; ½ is perfect.
        different: how many codes are not the simulation's.
        codes: how many there are.
    """

    layer: str
    levels: int
    distance: float = 0.0
    different: int = 0
    codes: int = 0


class Replay(fx.Interpreter):
    """Run the simulation with the file's codes behind every quantizer.

    Args:
        model: of the quantized model.

    Attributes:
        roundings: by the quantizer's node, in graph order.
    """

    def __init__(self, model: fx.GraphModule) -> None:
        super().__init__(model, garbage_collect_values=True)
        self.roundings: dict[str, Rounding] = {}
        self._codes: Mapping[str, np.ndarray] = {}

    def outputs(self, images: ModelInputs, codes: Mapping[str, np.ndarray]) -> list[Tensor]:
        """Return the model's outputs for `images`, given the codes by the node that dequantizes them."""
        self._codes = codes
        return computed(self.module, self.run(*tensors_of(images)))  # type: ignore[arg-type]

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.target is not _QUANTIZE:
            return result
        reader = next((user.name for user in n.users if user.name in self._codes), None)
        if reader is None:
            return result
        codes = self._codes[reader].astype(np.int32)  # torch hardly computes with uint16
        given = torch.from_numpy(codes).view(result.shape)
        (x, scale, zero_point, low, high, *_), _ = self.fetch_args_kwargs_from_env(n)
        exact = (x / scale + zero_point).clamp(low, high)
        found = self.roundings.setdefault(n.name, Rounding(_layer_before(n), high - low))
        # numpy's maximum keeps what is no number; Python's loses it.
        found.distance = float(np.maximum(found.distance, float((given - exact).abs().max())))
        found.different += int((given != result).sum())
        found.codes += given.numel()
        return given.to(result.dtype)


def _layer_before(quantize: fx.Node) -> str:
    """Return the module of the layer whose result is rounded, or of the last operator that takes several values."""
    node = quantize.all_input_nodes[0]
    while node.target not in LAYER_OPERATORS and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return module_path(node) or node.name


def returned_nodes(model: fx.GraphModule) -> list[object]:
    """Return what a model returns, flat: nodes, and constants such as `None`."""
    return flatten(model.graph.output_node().args[0])


def computed(model: fx.GraphModule, returned: Any) -> list[Tensor]:
    """Return the tensors that a model computed; numbers become tensors, constants are left out."""
    leaves = zip(returned_nodes(model), flatten(returned), strict=True)
    return [torch.as_tensor(leaf) for node, leaf in leaves if isinstance(node, fx.Node)]


def output_resolution(model: fx.GraphModule, output: fx.Node) -> float:
    """Return the largest change of an output by one code of its last layers' inputs.

    An output that no code reaches has the resolution of the float type at 1.
    """
    return max(_resolutions_before(model, output), default=0.0) or _EPSILON


def _resolutions_before(model: fx.GraphModule, output: fx.Node) -> Iterator[float]:
    """Yield the largest changes by codes with only float behind them, and by input codes of the quantized layers there."""
    found, waiting = {output}, [output]
    while waiting:
        node = waiting.pop()
        source, weight = (*node.args, None, None)[:2]
        if node.target is _DEQUANTIZE:
            yield float(node.args[1])  # type: ignore[arg-type]
            continue
        while isinstance(weight, fx.Node) and weight.target in _REORDERINGS:
            weight = weight.args[0]
        if _is(weight, _DEQUANTIZE_WEIGHT) and _is(source, _DEQUANTIZE):
            yield float(source.args[1]) * _largest_weight(model, weight)  # type: ignore[union-attr, arg-type]
            continue
        waiting += [one for one in node.all_input_nodes if one not in found]
        found.update(node.all_input_nodes)


def _is(argument: Any, operator: object) -> bool:
    return isinstance(argument, fx.Node) and argument.target is operator


def _largest_weight(model: fx.GraphModule, dequantize: Any) -> float:
    codes, scales, zero_points, axis = (_attribute(model, one) for one in dequantize.args[:4])
    shape = [-1 if dim == axis else 1 for dim in range(codes.ndim)]
    return float(((codes.int() - zero_points.view(shape)) * scales.view(shape)).abs().max())


def _attribute(model: fx.GraphModule, argument: Any) -> Any:
    if not isinstance(argument, fx.Node):
        return argument
    return attrgetter(str(argument.target))(model)
