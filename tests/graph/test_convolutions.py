"""On a CPU, steps in bfloat16 compute grouped convolutions in float32; those that oneDNN computes wrongly read a part of the map."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.testing import assert_close

import mrecg
import toys
from mrecg.graph.convolutions import (
    convolve_in_float32,
    convolve_part,
    plain_convolutions,
    replace_convolutions,
)
from mrecg.torch_state import compute_precision

CPU = torch.device("cpu")
_aten = torch.ops.aten
OPERATORS: dict[str, tuple[torch._ops.OpOverload, int, dict[str, Any]]] = {
    # name: operator, axes of a map, what is given beside the groups
    "conv1d": (_aten.conv1d.default, 1, {}),
    "conv1d same": (_aten.conv1d.padding, 1, {"padding": "same"}),
    "conv2d": (_aten.conv2d.default, 2, {}),
    "conv2d same": (_aten.conv2d.padding, 2, {"padding": "same"}),
    "conv3d": (_aten.conv3d.default, 3, {}),
    "transposed 1d": (_aten.conv_transpose1d.default, 1, {}),
    "transposed 2d": (_aten.conv_transpose2d.input, 2, {}),
    "transposed 3d": (_aten.conv_transpose3d.input, 3, {}),
}


def convolution(operator: torch._ops.OpOverload, groups: int, given: dict[str, Any]) -> fx.Graph:
    """Return a graph of a convolution of something that is bfloat16 there."""
    graph = fx.Graph()
    x, weight = graph.placeholder("x"), graph.placeholder("weight")
    sums = graph.create_node(
        "call_function", operator, (x, weight), {**given, "groups": groups}, "sums"
    )
    graph.output((graph.call_function(torch.Tensor.float, (sums,)), sums))
    return graph


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_every_operator(name: str, groups: int) -> None:
    """Results and gradients of grouped ones are those of float32 to the bit."""
    operator, axes, given = OPERATORS[name]
    graph = convolution(operator, groups, given)
    replace_convolutions(graph)
    graph.lint()
    module = fx.GraphModule({}, graph)
    x = toys.normal(2, 4, *[6] * axes).bfloat16()
    results = []
    for precision in ("float32", "bfloat16"):
        weight = toys.normal(4, 4 // groups, *[3] * axes, seed=1).requires_grad_()
        with compute_precision(precision, CPU):
            single, sums = module(x if precision == "bfloat16" else x.float(), weight)
        (gradient,) = torch.autograd.grad(single.square().sum(), weight)
        results.append((single.detach(), gradient))
    assert sums.dtype == (torch.bfloat16 if groups == 1 else torch.float32)
    same = [torch.equal(*pair) for pair in zip(*results, strict=True)]
    assert same == [groups > 1] * 2
    (called,) = (node for node in plain_convolutions(module).graph.nodes if node.name == "sums")
    assert called.target is operator
    assert called.args == tuple(called.all_input_nodes)


@pytest.mark.parametrize("channels", [2, 4, 7, 15, 16, 17])
@pytest.mark.parametrize("given", [{"stride": [2, 2]}, {"stride": [3, 1], "padding": [0, 0]}])
@pytest.mark.parametrize("kernel", [1, 3])
def test_strides_on_maps_that_are_channels_last(
    channels: int, given: dict[str, Any], kernel: int
) -> None:
    """The gradients of the weight are those of doubles, and nothing else is written to: oneDNN's fault crashes or hangs here."""
    graph = fx.Graph()
    x, weight = graph.placeholder("x"), graph.placeholder("weight")
    graph.output(graph.call_function(_aten.conv2d.default, (x, weight), given))
    plain = fx.GraphModule({}, graph)
    replaced = copy.deepcopy(plain)
    replace_convolutions(replaced.graph)
    replaced.recompile()
    image = toys.normal(8, channels, 24, 24).contiguous(memory_format=torch.channels_last)
    weights = toys.normal(6, channels, kernel, kernel, seed=1)
    single, double = (one.clone().requires_grad_() for one in (weights, weights.double()))
    expected = plain(image.double().contiguous(), double)
    slopes = toys.normal(*expected.shape, seed=2)
    (wanted,) = torch.autograd.grad(expected, double, slopes.double())
    for _ in range(5):
        found = replaced(image, single)
        assert_close(found, expected.float())
        (gradient,) = torch.autograd.grad(found, single, slopes)
        assert_close(gradient, wanted.float(), rtol=1e-4, atol=1e-4)
    (node,) = (one for one in plain_convolutions(replaced).graph.nodes if one.op == "call_function")
    assert (node.target, node.kwargs) == (_aten.conv2d.default, given)


@pytest.mark.parametrize(
    ("channels", "kernel", "padding", "is_part"),
    [(4, 1, [0, 0], True), (16, 1, [0, 0], False), (4, 3, [0, 0], False), (4, 1, [1, 1], False)],
)
def test_what_reads_a_part_of_the_map(
    channels: int, kernel: int, padding: list[int], is_part: bool
) -> None:
    """On every processor, also on those where oneDNN has no fault."""
    seen: list[tuple[int, list[int]]] = []

    def watch(x: Tensor, weight: Tensor, bias: None, stride: Any, *others: Any) -> Tensor:
        seen.append((x.shape[-1], list(stride)))
        return _aten.conv2d.default(x, weight, bias, stride, *others)

    x, weight = toys.normal(1, channels, 8, 8), toys.normal(2, channels, kernel, kernel)
    found = convolve_part(watch, x, weight, None, [2, 2], padding)  # type: ignore[arg-type]
    assert_close(found, functional.conv2d(x, weight, None, 2, padding))
    assert seen == [(4, [1, 1]) if is_part else (8, [2, 2])]


class Separable(nn.Module):
    """A depthwise convolution between two dense ones."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(2, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.project = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(functional.relu6(self.depthwise(functional.relu6(self.expand(x)))))


def test_steps_of_a_network() -> None:
    """Of a group and of the network as a whole; a depthwise convolution reads what its quantizer gave, in float32."""
    seen = []

    def watch(called: object, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        result = convolve_in_float32(called, x, *arguments, **options)  # type: ignore[arg-type]
        seen.append((torch.is_autocast_enabled("cpu"), x.dtype, result.dtype))
        return result

    model = nn.Sequential(Separable(), Separable(), nn.Flatten(), nn.Linear(128, 5))
    settings = {"reconstruct.steps": 3, "reconstruct.batch_size": 4, "network.steps": 2}
    recipe = mrecg.preset("w4a4-qdrop", {**settings, "reconstruct.precision": "bfloat16"})
    prepared = mrecg.prepare(model, toys.images(16), recipe=recipe)
    for unit in prepared.graph.chain.units:
        for node in unit.quantized.graph.nodes:
            node.target = watch if node.target is convolve_in_float32 else node.target
        unit.quantized.recompile()
    record = prepared.quantize(progress=False).record
    assert len([one for one in seen if one[0]]) == 2 * (3 + 2)
    assert {one[1:] for one in seen} == {(torch.float32, torch.float32)}
    assert {group.precision for group in record.groups} == {"bfloat16"}
