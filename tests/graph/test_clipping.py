"""A quantizer takes over the ReLU that only it reads, changes nothing by that, and leaves every other alone."""

import math
import operator
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import mrecg
import toys
from mrecg.cache.activation_cache import ActivationCache
from mrecg.graph import extract
from mrecg.graph.units import Unit
from mrecg.preparation.prepared_graph import PreparedGraph, prepare_graph
from mrecg.preparation.ranges import calibrate_activation
from mrecg.quantizers.activation import FakeQuantizer
from mrecg.quantizers.state import QuantizerState
from placements import Joined, SharedRange

CLIPPING = {
    torch.ops.aten.relu.default,
    torch.ops.aten.relu6.default,
    torch.ops.aten.hardtanh.default,
}


class Clipped(nn.Module):
    """Two convolutions with some function between them, in a block that repeats."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.block = nn.Sequential(_Block(kind), _Block(kind))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.first(x)).mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = FUNCTIONS[self.kind](self.one(x))
        made: Tensor = self.two(y)
        return made + y if self.kind == "read twice" else made


FUNCTIONS = {
    "relu": torch.relu,
    "relu6": functional.relu6,
    "hardtanh": functional.hardtanh,
    "hardtanh of bounds": lambda x: functional.hardtanh(x, -0.5, 0.7),
    "read twice": torch.relu,
    "gelu": functional.gelu,
}
BOUNDS = {
    "relu": (0.0, math.inf),
    "relu6": (0.0, 6.0),
    "hardtanh": (-1.0, 1.0),
    "hardtanh of bounds": (-0.5, 0.7),
}


def prepare(kind: str, backend: str | None = None) -> PreparedGraph:
    torch.manual_seed(0)
    # A shortcut that sees float values reads what a ReLU makes, not only the quantizer does.
    shortcut = {"placement.shortcut": "float"}
    recipe = mrecg.preset("w4a4-brecq" if backend is None else "w8a8-brecq", shortcut)
    recipe = recipe if backend is None else recipe.for_backend(backend)
    return prepare_graph(Clipped(kind).eval(), toys.images(4), recipe, None)


def bounds_of(units: Sequence[Unit]) -> list[tuple[float, float] | None]:
    """Return what each call of an activation quantizer clips to."""
    nodes = [node for unit in units for node in unit.quantized.graph.nodes]
    return [node.args[2] for node in nodes if node.target is operator.call]


def clips(prepared: PreparedGraph) -> tuple[int, int]:
    """Return how many operators clip: in the units, and in the whole graph."""
    graphs = [unit.quantized.graph for unit in prepared.chain.units]
    units = sum(node.target in CLIPPING for graph in graphs for node in graph.nodes)
    return units, sum(node.target in CLIPPING for node in prepared.graph.graph.nodes)


@pytest.mark.parametrize("kind", BOUNDS)
def test_fused(kind: str) -> None:
    prepared = prepare(kind)
    assert bounds_of(prepared.chain.units).count(BOUNDS[kind]) == 2
    assert set(bounds_of(prepared.chain.units)) == {None, BOUNDS[kind]}
    assert clips(prepared) == (0, 2)


@pytest.mark.parametrize(
    ("kind", "backend", "left"),
    [("read twice", None, 2), ("gelu", None, 0), ("relu", "nnie", 2)],
)
def test_left_alone(kind: str, backend: str | None, left: int) -> None:
    prepared = prepare(kind, backend)
    assert set(bounds_of(prepared.chain.units)) == {None}
    assert clips(prepared) == (left, left)


def test_a_unit_still_gives_what_it_clips() -> None:
    """What ends a unit is read by others, as a shortcut is."""
    recipe = mrecg.preset("w4a4-brecq")
    units, whole = clips(prepare_graph(toys.make("residual"), toys.images(4), recipe, None))
    assert 0 < units < whole


@pytest.mark.parametrize("kind", BOUNDS)
@pytest.mark.parametrize("learning", [False, True])
def test_nothing_changes(kind: str, learning: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = prepare(kind)
    monkeypatch.setattr(extract, "find_fusable_clips", lambda *arguments: {})
    separate = prepare(kind)
    assert clips(separate) == (2, 2)
    found = [_outputs_and_slopes(one, 1, learning) for one in (fused, separate)]
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("relus", [("a",), ("b",), ("a", "b")])
@pytest.mark.parametrize("learning", [False, True])
def test_only_the_calls_behind_a_clip_clip(
    relus: tuple[str, ...], learning: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quantizer that operands share is called for each of them: behind a ReLU it clips, elsewhere it does not."""
    recipe = mrecg.preset("w8a8-brecq", {"weight.symmetric": True})

    def prepare_joined() -> PreparedGraph:
        torch.manual_seed(0)
        model = Joined(*relus).eval()
        return prepare_graph(model, toys.images(4), recipe, SharedRange(recipe))

    fused = prepare_joined()
    nodes = fused.chain.units[0].quantized.graph.nodes
    calls = [node for node in nodes if node.target is operator.call]
    (shared,) = {node.args[0] for node in calls if len(node.args[0].users) > 1}
    found = [node.args[2] for node in calls if node.args[0] is shared]
    assert len(found) == 3  # two operands, and what joins them
    assert found.count(BOUNDS["relu"]) == len(relus)
    assert found.count(None) == 3 - len(relus)
    assert clips(fused) == (0, len(relus))
    monkeypatch.setattr(extract, "find_fusable_clips", lambda *arguments: {})
    separate = prepare_joined()
    results = [_outputs_and_slopes(one, 0, learning) for one in (fused, separate)]
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
    first, second = results[0][0].split(4, dim=1)
    assert [bool((part < 0).any()) for part in (first, second)] == [
        "a" not in relus,
        "b" not in relus,
    ]


def _outputs_and_slopes(prepared: PreparedGraph, position: int, learning: bool) -> list[Tensor]:
    """Return what a unit makes of numbers and, where its scales are learned, all gradients."""
    units = prepared.chain.units[: position + 1]
    cache = ActivationCache(prepared.chain, toys.images(4), prepared.device)
    settings = mrecg.preset("w4a4-brecq").activation
    scalings = {
        name: calibrate_activation(prepared.activations[name], sample, settings, 4)
        for unit in units
        for name, sample in cache.run_float(unit, 1024).items()
    }
    weights = {
        name: prepared.weights[name].round_to_nearest(weight, prepared.weights[name].calibrated)
        for name, weight in prepared.float_weights(units).items()
    }
    unit = units[-1]
    bindings = prepared.bind([unit], QuantizerState(weights, scalings))
    if learning:
        for name in [name for name in unit.bindings if name in scalings]:
            bindings[name] = prepared.activations[name].learn(scalings[name], None)
    given = [cache.of_float[name].portion(0, 4) for name in unit.inputs]
    given = [toys.normal(*x.shape, seed=1).requires_grad_() for x in given]
    (made, *_) = unit.quantized(*given, *[bindings[name] for name in unit.bindings])
    if not learning:
        return [made.detach()]
    made.square().sum().backward()
    quantizers = [one for one in bindings.values() if isinstance(one, FakeQuantizer)]
    variables = [variable for one in quantizers for variable in one.variables]
    assert variables
    slopes = [x.grad for x in [*given, *variables]]
    assert all(slope is not None for slope in slopes)
    return [made.detach(), *slopes]


def test_the_finished_model_clips_once() -> None:
    recipe = mrecg.preset("w4a4-brecq", {"reconstruct.steps": 4, "reconstruct.batch_size": 8})
    quantized = mrecg.quantize(Clipped("relu").eval(), toys.images(16), recipe=recipe)
    targets = [node.target for node in quantized.program.graph.nodes]
    assert targets.count(torch.ops.aten.relu.default) == 2
