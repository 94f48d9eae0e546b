"""A quantizer takes over the ReLU that only it reads, changes nothing by that, and leaves every other alone."""

import math

import pytest
import torch
from mrecg.preparation.prepared_model import Assembly, assemble
from mrecg.preparation.quantizers import calibrate
from torch import Tensor, nn
from torch.nn import functional

import mrecg
import toys
from mrecg.cache.activation_cache import Stream
from mrecg.preparation import prepared_model as assembling
from mrecg.quantizers.lsq import ActivationQuantizer
from mrecg.quantizers.range_search import Sample

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


def taken_apart(kind: str, backend: str | None = None) -> Assembly:
    torch.manual_seed(0)
    # A shortcut that sees float values reads what a ReLU makes beside the quantizer.
    shortcut = {"placement.shortcut": "float"}
    recipe = mrecg.preset("w4a4-brecq" if backend is None else "w8a8-brecq", shortcut)
    recipe = recipe if backend is None else recipe.for_backend(backend)
    return assemble(Clipped(kind).eval(), toys.images(4), recipe, None)


def bounds(found: Assembly) -> set[tuple[float, float] | None]:
    return {quantizer.bounds for quantizer in found.activations(found.chain.units).values()}


def clips(found: Assembly) -> tuple[int, int]:
    """In the units, and in the whole graph."""
    graphs = [unit.quantized.graph for unit in found.chain.units]
    units = sum(node.target in CLIPPING for graph in graphs for node in graph.nodes)
    return units, sum(node.target in CLIPPING for node in found.graph.graph.nodes)


@pytest.mark.parametrize("kind", BOUNDS)
def test_fused(kind: str) -> None:
    found = taken_apart(kind)
    assert bounds(found) == {None, BOUNDS[kind]}
    assert clips(found) == (0, 2)


@pytest.mark.parametrize(
    ("kind", "backend", "left"),
    [("read twice", None, 2), ("gelu", None, 0), ("relu", "nnie", 2)],
)
def test_left_alone(kind: str, backend: str | None, left: int) -> None:
    found = taken_apart(kind, backend)
    assert bounds(found) == {None}
    assert clips(found) == (left, left)


def test_a_unit_still_gives_what_it_clips() -> None:
    """What ends a unit is read by others, as a shortcut is."""
    found = assemble(toys.make("residual"), toys.images(4), mrecg.preset("w4a4-brecq"), None)
    units, whole = clips(found)
    assert 0 < units < whole


@pytest.mark.parametrize("kind", BOUNDS)
@pytest.mark.parametrize("learning", [False, True])
def test_nothing_changes(kind: str, learning: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for fuses in (True, False):
        if not fuses:
            monkeypatch.setattr(assembling, "fuse_clipping", lambda graph, units: None)
        found.append(_outputs_and_slopes(taken_apart(kind), learning))
    for fused, plain in zip(*found, strict=True):
        assert torch.allclose(fused, plain, rtol=1e-4, atol=1e-6)


def _outputs_and_slopes(found: Assembly, learning: bool) -> list[Tensor]:
    unit = found.chain.units[1]
    stream = Stream(found.chain, toys.images(4), found.device)
    samples = {name: Sample() for unit in found.chain.units[:2] for name in unit.activations}
    for each in found.chain.units[:2]:
        stream.advance_plain(each, samples)
    quantizers = found.activations(found.chain.units[:2])
    for name, quantizer in quantizers.items():
        calibrate(quantizer, samples[name], mrecg.preset("w4a4-brecq").activation)
    x = torch.randn(4, 8, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    learned = [one.start_learning(None) for one in quantizers.values()] if learning else []
    (made, *_) = unit.quantized(x)
    if not learning:
        return [made.detach()]
    made.square().sum().backward()
    assert x.grad is not None
    return [
        made.detach(),
        x.grad,
        *(one.grad for one in learned if one is not None and one.grad is not None),
    ]


def test_the_finished_model_clips_once() -> None:
    recipe = mrecg.preset("w4a4-brecq", {"reconstruct.steps": 4, "reconstruct.batch_size": 8})
    quantized = mrecg.quantize(Clipped("relu").eval(), toys.images(16), recipe=recipe)
    targets = [node.target for node in quantized.program.graph.nodes]
    assert targets.count(torch.ops.aten.relu.default) == 2
    assert ActivationQuantizer not in {type(one) for one in quantized.model.modules()}
