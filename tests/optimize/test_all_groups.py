"""Group by group: what a group starts from, what judges it, and what it keeps."""

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import mrecg
import toys
from mrecg.cache.activation_cache import (
    ActivationCache,
)
from mrecg.cache.storage import Storage
from mrecg.graph.units import Unit
from mrecg.optimize import reconstruction
from mrecg.optimize.group import GroupResult
from mrecg.optimize.schedule import shuffled_batches
from mrecg.planning.joint_plan import make_plan
from mrecg.preparation.prepared_graph import PreparedGraph, prepare_graph
from mrecg.quantizers.grid import Scaling
from mrecg.quantizers.state import QuantizerState
from mrecg.records.plan import Plan
from mrecg.runs.folder import QuantizedModel
from quick import GROUPS_ALONE
from reconstructed import JOINED, optimize
from states import are_equal, copy_of


def run(model: nn.Module, name: str, **overrides: object) -> QuantizedModel:
    settings = GROUPS_ALONE | {f"reconstruct.{key}": value for key, value in overrides.items()}
    return mrecg.quantize(model, toys.images(32), recipe=mrecg.preset(name, settings))


def test_the_same_state_gives_the_same_state(residual: PreparedGraph) -> None:
    """All randomness comes from the seed, and nothing that is given changes."""
    recipe = mrecg.preset("w2a2-qdrop", GROUPS_ALONE)
    previous, _ = optimize(residual, recipe.override({"reconstruct.steps": 4}))
    before = copy_of(previous)
    first, second = (optimize(residual, recipe, None, previous)[0] for _ in range(2))
    assert are_equal(first, second)
    assert first.steps == second.steps
    assert are_equal(previous, before)
    assert not are_equal(first, optimize(residual, recipe)[0])
    other, _ = optimize(residual, recipe.override({"seed": 7}), None, previous)
    assert not are_equal(first, other)


@pytest.mark.parametrize("name", ["w2a2-brecq", "w2a2-qdrop-mrecg"])
def test_what_optimization_made_worse_is_taken_back(name: str) -> None:
    toy = toys.make("residual")
    wild = run(toy, name, activation_rate=1e3, activation_rate_unit="absolute", penalty=0)
    rejected = [index for index, one in enumerate(wild.record.groups) if not one.accepted]
    assert len(rejected) > 1
    assert len(wild.record.groups) - 1 in rejected
    for unit in wild.record.units:
        if unit.group in rejected:
            assert unit.loss == unit.nearest_loss
    x = toys.images(32)
    shipped = (wild.model(x) - toy(x)).detach().square().sum(1).mean()
    assert float(shipped) == pytest.approx(wild.record.units[-1].nearest_loss, rel=1e-4)


def test_what_is_taken_back_is_rounding_to_nearest(residual: PreparedGraph) -> None:
    """Bit for bit, up to the first group that was better for its steps."""
    settings = {"activation_rate": 1e3, "activation_rate_unit": "absolute", "penalty": 0}
    wild = GROUPS_ALONE | {f"reconstruct.{key}": value for key, value in settings.items()}
    nearest, _ = optimize(
        residual, mrecg.preset("w2a2-qdrop", GROUPS_ALONE | {"reconstruct.steps": 0})
    )
    found, groups = optimize(residual, mrecg.preset("w2a2-qdrop", wild))
    accepted = [group.accepted for group in groups]
    assert accepted == [True, False, False, False, False]  # the first learns no scale
    second = residual.chain.units[1]
    for name in second.weights:
        assert torch.equal(found.weights[name].codes, nearest.weights[name].codes)
        assert found.weights[name].scaling == nearest.weights[name].scaling
    for name in residual.chain.units[0].weights:
        assert not torch.equal(found.weights[name].codes, nearest.weights[name].codes)


def test_a_result_that_is_no_number_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    original = reconstruction.optimize_group

    def poisoned(
        prepared: PreparedGraph, units: Sequence[Unit], *rest: object
    ) -> tuple[QuantizerState, GroupResult]:
        state, result = original(prepared, units, *rest)  # type: ignore[arg-type]
        nan = {
            name: Scaling(torch.tensor(torch.nan), state.activations[name].zero_point)
            for name in prepared.learned_activations(units)
        }
        return state | QuantizerState(activations=nan), result

    monkeypatch.setattr(reconstruction, "optimize_group", poisoned)
    quantized = run(toys.make("residual"), "w4a4-brecq")
    accepted = [group.units for group in quantized.record.groups if group.accepted]
    assert accepted == [("stem",)]  # which reads the images in float
    assert torch.isfinite(quantized.model(toys.images(4))).all()


class TwoAnswers(nn.Module):
    """One output leaves early; the joined units' last one is not all that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        early = self.a(x)
        return early, self.b(early.relu())


class PartlyRead(nn.Module):
    """The first layer's values leave as something else; as they are, only the second layer reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.a(x)
        return x.sigmoid(), self.b(x)


def is_kept(
    monkeypatch: pytest.MonkeyPatch, model: nn.Module, factor: Callable[[str, list[str]], float]
) -> bool:
    """Return whether the two layers, joined, keep what they learned when it changed each value's loss by a factor.

    Args:
        monkeypatch: changes the losses.
        model: has the layers a and b.
        factor: of a value's name and those of the values that are read after the group, the last layer's last.
    """
    original = ActivationCache.run_quantized
    calls = 0

    def changed(self: ActivationCache, units: Sequence[Unit], *rest: object) -> dict[str, float]:
        nonlocal calls
        calls += 1
        losses = original(self, units, *rest)  # type: ignore[arg-type]
        if calls != 2:  # the second is after the optimization
            return losses
        lasting = list(self.targets(units))
        return {name: loss * factor(name, lasting) for name, loss in losses.items()}

    monkeypatch.setattr(ActivationCache, "run_quantized", changed)
    torch.manual_seed(0)
    recipe = mrecg.preset("w4a4-brecq", GROUPS_ALONE | {"plan.keep": "all"})
    prepared = prepare_graph(model.eval(), toys.images(2), recipe, None)
    _, (group,) = optimize(prepared, recipe, Plan(groups=(("a", "b"),)))
    assert calls == 2 + (not group.accepted)
    return group.accepted


def test_a_joined_group_is_judged_by_all_that_is_read_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last unit is a little better, the one before it much worse."""
    assert not is_kept(
        monkeypatch, TwoAnswers(), lambda name, read: 0.9 if name == read[-1] else 10
    )


def test_what_no_later_unit_reads_judges_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only the second unit of a joined pair reads may get worse, as long as what the pair passes on gets better."""
    assert is_kept(monkeypatch, PartlyRead(), lambda name, read: 0.9 if name in read else 1e6)


def test_each_unit_runs_a_fixed_number_of_times(
    residual: PreparedGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float once; quantized before and after its steps, and again where these are taken back. Nothing runs from the
    first layer again."""
    runs: dict[str, Counter[str]] = {"run_float": Counter(), "run_quantized": Counter()}
    caches: set[ActivationCache] = set()

    def watch(method: str) -> None:
        original = getattr(ActivationCache, method)

        def watched(self: ActivationCache, given: Unit | Sequence[Unit], *rest: object) -> object:
            caches.add(self)
            units = [given] if isinstance(given, Unit) else given
            runs[method].update(unit.name for unit in units)
            return original(self, given, *rest)

        monkeypatch.setattr(ActivationCache, method, watched)

    watch("run_float")
    watch("run_quantized")
    wild = {"reconstruct.activation_rate": 1e3, "reconstruct.activation_rate_unit": "absolute"}
    for settings in (GROUPS_ALONE, GROUPS_ALONE | wild, GROUPS_ALONE | {"reconstruct.steps": 0}):
        for counts in runs.values():
            counts.clear()
        recipe = mrecg.preset("w2a2-qdrop", settings | {"plan.keep": "all"})
        _, groups = optimize(residual, recipe, JOINED)
        quantized = {
            unit: 2 + (not group.accepted) if group.steps else 1
            for group in groups
            for unit in group.units
        }
        assert runs == {"run_float": dict.fromkeys(quantized, 1), "run_quantized": quantized}
    assert len(caches) == 3
    for cache in caches:
        assert cache.of_float == cache.of_quantized == {}  # nothing is still held


def test_nothing_stays_in_storage_after_the_groups() -> None:
    storage, recipe = Storage(torch.device("cpu")), mrecg.preset("w4a4-qdrop", GROUPS_ALONE)
    prepared = prepare_graph(toys.make("two-outputs"), toys.images(2), recipe, None)
    made: list[object] = []
    allocate = storage.allocate
    storage.allocate = lambda *given: made.append(given) or allocate(*given)  # type: ignore[assignment,func-returns-value]
    optimize(prepared, recipe, make_plan(prepared.chain.units, recipe.plan), storage=storage)
    assert made
    assert set(storage.held.values()) == {0}


def test_neighboring_seeds_have_nothing_in_common(
    residual: PreparedGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[list[int]] = []
    original = reconstruction.optimize_group

    def watched(*arguments: object) -> tuple[QuantizerState, GroupResult]:
        settings, seed = arguments[4:6]
        orders.append(next(shuffled_batches(32, settings, seed)).tolist())  # type: ignore[arg-type]
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(reconstruction, "optimize_group", watched)
    for seed in (1, 2, 3):
        optimize(residual, mrecg.preset("w2a2-brecq", GROUPS_ALONE | {"seed": seed}))
    assert len(orders) == 15
    assert len(set(map(tuple, orders))) == len(orders)
