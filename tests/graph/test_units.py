"""The chain of units: how many, which layers, and outputs equal to the captured model bit for bit."""

from collections.abc import Callable
from operator import attrgetter

import pytest
import torch
from torch import Tensor, fx, nn

import mrecg
import toys
from mrecg.config.settings import ActivationSettings, Placement, TensorSettings
from mrecg.graph.capture import capture_graph
from mrecg.graph.extract import Insertions, Unit
from mrecg.graph.insert import insert_quantizers
from mrecg.graph.recipe_placement import RecipePlacement
from mrecg.graph.units import Chain, cut_units
from mrecg.paper.networks import build

EXPECTED = {
    "chain": ["0", "2", "6", "10"],
    "dense": ["stem", "layers.0", "layers.1", "layers.2", "fc"],
    "functional-residual": ["stem", "a..b", "fc"],
    "inception": ["stem", "blocks.0", "blocks.1", "fc"],
    "residual": ["stem", "stage.one", "stage.two", "stage.three", "fc"],
    "shared": ["stem", "twice..between", "fc"],
    "vit": ["patch", "blocks.0", "blocks.1", "head"],
    # Windows are several rows for each image, so nothing can be drawn in batches between the blocks.
    "windows": ["stem", "blocks.0..blocks.1", "out", "fc"],
}


def chain_of(
    model: nn.Module,
    x: Tensor,
    granularity: str = "block",
    shortcut: str = "quantized",
    cut: str = "before-quantizers",
) -> tuple[Chain, fx.GraphModule]:
    placement = RecipePlacement(
        Placement(shortcut=shortcut),
        TensorSettings(bits=4),
        ActivationSettings(bits=4),
    )
    graph, quantizers = insert_quantizers(capture_graph(model, x[:2]), placement)
    inserted = Insertions({one.name: one for one in quantizers}, clipping=(), biases={})
    return cut_units(graph, inserted, model, granularity, cut), graph


def without_change(unit: Unit, graph: fx.GraphModule) -> list[Tensor | Callable[..., Tensor]]:
    """Return bindings that change nothing: float weights, and quantizers that return their input."""
    return [
        attrgetter(unit.weights[name])(graph) if name in unit.weights else lambda x, bounds: x
        for name in unit.bindings
    ]


def as_tuple(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


@pytest.mark.parametrize("cut", ["before-quantizers", "behind-quantizers"])
@pytest.mark.parametrize("granularity", ["block", "layer"])
@pytest.mark.parametrize("shortcut", ["quantized", "float"])
@pytest.mark.parametrize("name", toys.TOYS)
def test_units_in_order_are_the_captured_model(
    name: str, granularity: str, shortcut: str, cut: str
) -> None:
    model, x = toys.make(name), toys.images(5)
    chain, graph = chain_of(model, x, granularity, shortcut, cut)
    for is_quantized in (False, True):
        values = chain.named(x)
        for unit in chain.units:
            given = [values[name] for name in unit.inputs]
            if is_quantized:
                results = unit.quantized(*given, *without_change(unit, graph))
            else:
                results = unit.float_graph(*given)
            values.update(zip(unit.outputs, results, strict=False))
        expected = as_tuple(graph(x))
        assert len(chain.outputs) == len(expected)
        for output, tensor in zip(chain.outputs, expected, strict=True):
            assert torch.equal(values[output], tensor)
    for got, wanted in zip(as_tuple(graph(x)), as_tuple(model(x)), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)  # batch norm is folded


@pytest.mark.parametrize("granularity", ["block", "layer"])
@pytest.mark.parametrize("name", toys.TOYS)
def test_every_layer_is_in_exactly_one_unit(name: str, granularity: str) -> None:
    model = toys.make(name)
    chain, _ = chain_of(model, toys.images(), granularity)
    found = [layer.name for unit in chain.units for layer in unit.layers]
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sorted(found) == sorted(layers)
    assert len({unit.name for unit in chain.units}) == len(chain.units)


@pytest.mark.parametrize("name", EXPECTED)
def test_units_of_toys(name: str) -> None:
    chain, _ = chain_of(toys.make(name), toys.images())
    assert [unit.name for unit in chain.units] == EXPECTED[name]


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18_small", 10), ("mobilenetv2_small", 20), ("regnetx_small", 18)]
)
def test_units_of_the_papers_networks(name: str, count: int) -> None:
    chain, _ = chain_of(build(name), torch.randn(2, 1, 28, 28))
    assert len(chain.units) == count


@pytest.mark.parametrize(
    ("name", "granularity"),
    [("chain", "layer"), *((name, "block") for name in ("chain", "inception", "residual"))],
)
def test_units_cut_behind_quantizers_give_quantized_values(name: str, granularity: str) -> None:
    """Whatever crosses a cut is what a quantizer returned; the quantizer of the images belongs to no unit."""
    model, x = toys.make(name), toys.images()
    before, _ = chain_of(model, x, granularity)
    chain, graph = chain_of(model, x, granularity, cut="behind-quantizers")
    assert [unit.name for unit in chain.units] == [unit.name for unit in before.units]
    quantizers = [name for unit in chain.units for name in unit.activations]
    assert sorted(quantizers) == sorted(name for unit in before.units for name in unit.activations)
    targets = {node.name: node.target for node in graph.graph.nodes}
    for unit in chain.units[:-1]:
        assert unit.outputs
        assert {targets[name] for name in unit.outputs} <= set(unit.activations)
    assert not set(chain.units[-1].activations)
    source = next(node for node in graph.graph.nodes if node.name == chain.inputs[0])
    assert chain.fixed == {str(user.target) for user in source.users}
    assert before.fixed == frozenset()


def test_a_target_behind_a_quantizer_is_free_of_its_error() -> None:
    model, x = toys.make("residual"), toys.images()
    chain, graph = chain_of(model, x, cut="behind-quantizers")
    stem = chain.units[0]
    bindings = [
        attrgetter(stem.weights[name])(graph) if name in stem.weights else _halved
        for name in stem.bindings
    ]
    wanted = nn.functional.relu(model.stem(x))
    torch.testing.assert_close(stem.float_graph(x)[0], wanted)
    behind = nn.functional.relu(model.stem(x / 2)) / 2  # the images' quantizer comes first
    torch.testing.assert_close(stem.quantized(x, *bindings)[0], behind)


def _halved(x: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    return x.clamp(*bounds) / 2 if bounds else x / 2


def test_the_last_block_reaches_through_pooling_where_units_end_behind_quantizers() -> None:
    model = toys.make("residual")
    before, _ = chain_of(model, toys.images())
    behind, _ = chain_of(model, toys.images(), cut="behind-quantizers")
    assert (before.units[-2].shape, behind.units[-2].shape) == ((6, 8, 8), (6,))
    assert behind.units[-1].inputs == behind.units[-2].outputs
    assert behind.channels[behind.units[-2].outputs[0]] == 6


def test_layer_facts() -> None:
    chain, _ = chain_of(build("mobilenetv2_small"), torch.randn(2, 1, 28, 28))
    expand, depthwise, project = chain.units[2].layers
    assert (expand.bits, expand.stride, expand.groups, expand.parameters) == (4, 1, "dense", 8 * 48)
    assert (depthwise.stride, depthwise.groups, depthwise.parameters) == (2, "depthwise", 48 * 9)
    assert project.name == "features.2.conv.6"
    assert chain.units[0].layers[0].bits == 8
    assert chain.units[0].shape == (16, 28, 28)


def test_two_outputs_live_to_the_end() -> None:
    chain, _ = chain_of(toys.make("two-outputs"), toys.images())
    assert len(chain.outputs) == 2
    assert all(chain.last_reader[name] == len(chain.units) for name in chain.outputs)


def test_a_fixed_filter_is_a_layer_like_others() -> None:
    """Anti-aliased pooling convolves with a buffer."""

    class Blur(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("filter", torch.full((4, 1, 2, 2), 0.25))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv2d(x, self.filter, stride=2, groups=4)

    model = nn.Sequential(nn.Conv2d(2, 4, 3), Blur()).eval()
    recipe = mrecg.preset("w4a4-brecq", {"reconstruct.steps": 2, "reconstruct.batch_size": 4})
    assert mrecg.quantize(model, toys.images(), recipe=recipe).record.left_in_float == ()


class _Staged(nn.Module):
    """Convolves in a forward that calls blocks, too."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = (nn.Parameter(torch.randn(4, 4, 1, 1)) for _ in range(2))
        self.blocks = nn.Sequential(toys.ResidualBlock(4, 4), toys.ResidualBlock(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.conv2d(x, self.before).relu()
        return nn.functional.conv2d(self.blocks(x), self.after)


def test_names_of_units_are_their_own() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), _Staged()).eval()
    names = [unit.name for unit in chain_of(model, toys.images())[0].units]
    assert names == ["0", "2", "2.blocks.0", "2.blocks.1", "2.after"]


@pytest.mark.parametrize(
    ("make", "shape", "channels"),
    [
        (lambda: nn.Sequential(nn.Conv1d(3, 5, 3), nn.ReLU(), nn.Conv1d(5, 4, 3)), (3, 9), [5, 4]),
        (lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4)), (6, 7, 3), [5, 4]),
        (lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3)), (3, 9, 9), [5, 4]),
        (lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(1), nn.Linear(245, 1), nn.Flatten(0)), (3, 9, 9), [5, 1]),
    ],
)  # fmt: skip
def test_channels_of_what_units_make(
    make: Callable[[], nn.Module], shape: tuple[int, ...], channels: list[int]
) -> None:
    """Maps of one axis, rows of tokens and numbers too; the penalty stands against a sum over channels."""
    chain, _ = chain_of(make().eval(), torch.randn(2, *shape))
    assert [unit.channels[name] for unit in chain.units for name in unit.outputs] == channels
