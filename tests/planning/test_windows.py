"""What is compared in a window is what the whole map has there, bit for bit but for the order of sums."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import mrecg
import toys
from mrecg.cache.activation_cache import run_float_units
from mrecg.cache.storage import Storage
from mrecg.cache.stored import CachedActivation
from mrecg.graph.receptive_fields import Extent
from mrecg.graph.units import Chain
from mrecg.optimize.schedule import shuffled_batches
from mrecg.optimize.step import BatchReader, Drawn
from mrecg.planning import windows
from mrecg.planning.cost import output_positions
from mrecg.planning.windows import AxisCut, View, Windows, find_view, find_windows
from mrecg.preparation.prepared_graph import prepare_graph
from quick import GROUPS_ALONE, quick
from toys import normal

IMAGES = 12
POSITIONS = 25


class Residual(nn.Module):
    """Strides, a projected shortcut, and an odd number of rows behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 7, stride=2, padding=3)
        self.a = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.b = nn.Conv2d(6, 6, 3, padding=1)
        self.project = nn.Conv2d(4, 6, 1, stride=2)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.stem(x)), 3, stride=1, padding=1)
        x = functional.relu(self.b(functional.relu(self.a(x))) + self.project(x))
        return self.fc(x.mean((2, 3)))


class Depthwise(nn.Module):
    """Depthwise layers of two kernels and dilations, "same" padding of TensorFlow, batch norms that cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(2, 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.slow = nn.Conv2d(6, 6, (5, 3), padding=(4, 2), dilation=2, groups=6)
        self.strided = nn.Conv2d(6, 6, 3, stride=2, groups=6)
        self.project = nn.Conv2d(6, 4, 3, padding="same")
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.hardtanh(self.norm(functional.relu(self.expand(x))), 0, 6)
        x = functional.silu(self.slow(x)) + x
        x = self.strided(functional.pad(x, (0, 1, 0, 1)))
        return self.fc(functional.relu(self.project(x)).mean((2, 3)))


class Branches(nn.Module):
    """Concatenation, parts of the channels, average pooling with a ragged end, a kernel without padding, two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, padding=1)
        self.b = nn.Conv2d(2, 4, 5, padding=2)
        self.c = nn.Conv2d(4, 4, 3, padding=1)
        self.d = nn.Conv2d(10, 4, 4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([functional.relu(self.a(x)), functional.relu(self.b(x))], 1)
        first, last = x.chunk(2, 1)
        x = torch.cat([self.c(first), last, x[:, 1:3]], 1)
        x = functional.avg_pool2d(functional.relu(x), 3, stride=2, ceil_mode=True)
        return self.fc(functional.relu(self.d(x)).mean((2, 3)))


@pytest.fixture(autouse=True)
def cut_small_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "LARGEST_WHOLE", 0)


def cached_values(chain: Chain, images: Tensor) -> dict[str, CachedActivation]:
    """Return every value of the float network."""
    storage = Storage(images.device)
    (source,) = chain.inputs
    cached = {source: storage.wrap(images)}
    for name, value in run_float_units(chain.units, {source: images}).items():
        if name != source:
            cached[name] = storage.allocate(len(images), value.shape[1:])
            cached[name].write(0, value)
    return cached


@pytest.mark.parametrize("size", [(41, 38), (64, 64)], ids=str)
@pytest.mark.parametrize("network", [Residual, Depthwise, Branches])
def test_what_is_compared_in_a_window_is_what_the_whole_map_has_there(
    network: Callable[[], nn.Module], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    images = normal(IMAGES, 2, *size)
    recipe = mrecg.preset("w2a8-qdrop", {"plan.granularity": "layer"})
    chain = prepare_graph(network().eval(), images, recipe, None).chain
    cached, cut = cached_values(chain, images), 0
    for first, last in itertools.combinations(range(len(chain.units) + 1), 2):
        members = chain.units[first:last]
        made = [name for unit in members for name in unit.outputs]
        read = {name for unit in members for name in unit.inputs if name not in made}
        found = find_windows(members, made, POSITIONS)
        if found is None or found.fraction > 0.5:
            continue
        drawn = found.draw(IMAGES, torch.Generator().manual_seed(first))
        inputs, targets = ({name: cached[name] for name in names} for names in (read, made))
        batch = BatchReader(inputs, {}, targets).read(Drawn(torch.arange(IMAGES), drawn))
        results = run_float_units(members, batch.quantized)
        for name, target in batch.targets.items():
            inside = batch.inside[name].bool().expand_as(target)
            torch.testing.assert_close(results[name][inside], target[inside], rtol=1e-4, atol=1e-5)
            assert all(int(image.sum()) >= POSITIONS for image in batch.inside[name])
        cut += 1
    assert cut >= 2


def test_where_windows_save_nothing_a_step_reads_fewer_images() -> None:
    """Attention needs whole maps; a classifier has one position, and keeps its batch."""
    chain = prepare_graph(toys.make("vit"), toys.images(2), mrecg.preset("w2a8-qdrop"), None).chain
    views = [find_view([unit], chain.read_later([unit]), 2) for unit in chain.units[1:]]
    tokens = [output_positions(unit)[unit.outputs[-1]] for unit in chain.units[1:]]
    assert [view.divisor for view in views] == [max(1, min(4, count // 2)) for count in tokens]
    assert not any(view.windows for view in views)
    batch = next(shuffled_batches(64, quick().reconstruct, 0, views[0].divisor))
    assert len(batch) == 8 // views[0].divisor


def test_small_maps_are_seen_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    torch.manual_seed(0)
    recipe = mrecg.preset("w2a8-qdrop")
    chain = prepare_graph(Residual().eval(), normal(2, 2, 64, 64), recipe, None).chain
    assert all(find_view([unit], unit.outputs, 4) == View() for unit in chain.units)


def test_windows_cover_a_map_evenly_and_its_borders_too() -> None:
    seen = torch.zeros(1, 1, 40, 40)
    axis = AxisCut(count=40, tile=8, halo=3, length=14, stride=1)
    drawn = Windows(axis, axis, {"x": (Extent(40, 1), Extent(40, 1))}).draw(
        5000, torch.Generator().manual_seed(0)
    )
    cut = drawn.cut("x")
    for place, inside in zip(zip(*cut[:2], strict=True), drawn.inside("x"), strict=True):
        top, left = map(int, place)
        seen[0, 0, top : top + cut.height, left : left + cut.width] += inside[0]
    expected = 5000 * 64 / 1600
    assert seen.min() > 0.7 * expected
    assert seen.max() < 1.3 * expected


def test_a_run_with_windows_learns_as_well_as_one_with_whole_maps() -> None:
    torch.manual_seed(0)
    model, images = Residual().eval(), normal(32, 2, 48, 48)
    losses = []
    for window in ("none", 36):
        settings = {**GROUPS_ALONE, "reconstruct.steps": 30, "reconstruct.window": window}
        record = mrecg.quantize(model, images, recipe=mrecg.preset("w2a4-qdrop", settings)).record
        losses.append(sum(unit.loss / unit.nearest_loss for unit in record.units))
    assert losses[1] == pytest.approx(losses[0], rel=0.2)
    assert losses[1] != losses[0]
