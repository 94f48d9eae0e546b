"""Group by group: what a group reads while it learns, and what it keeps."""

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torchao.quantization.pt2e.quantizer import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    SharedQuantizationSpec,
)

import mrecg
import toys
from mrecg.cache import activation_cache as stream
from mrecg.cache.storage import Storage
from mrecg.graph.recipe_placement import RecipePlacement
from mrecg.optimize import groups, step
from mrecg.optimize.group import shuffled_batches
from mrecg.optimize.step import Batch, Numbers, Step
from mrecg.quantizers.grid import Scaling
from mrecg.records.plan import Plan
from mrecg.runs.folder import QuantizedModel

QUICK = {
    "reconstruct.steps": 8,
    "reconstruct.batch_size": 8,
    "reconstruct.network_share": 0,
    "reconstruct.early_stop": False,
}


def run(
    model: nn.Module, name: str, plan: Plan | None = None, **overrides: object
) -> QuantizedModel:
    settings = QUICK | {f"reconstruct.{key}": value for key, value in overrides.items()}
    return mrecg.quantize(model, toys.images(32), recipe=mrecg.preset(name, settings), plan=plan)


def scales(quantized: QuantizedModel) -> dict[str, float]:
    found = quantized.record.quantizers
    return {one.tensor: one.scales[0] for one in found if one.kind == "activation"}


@pytest.mark.parametrize("name", ["w2a2-brecq", "w2a2-qdrop-mrecg"])
def test_what_tuning_made_worse_is_taken_back(name: str) -> None:
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


def test_a_result_that_is_no_number_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    original = groups.tune

    def poisoned(units, weights, activations, *rest):  # type: ignore[no-untyped-def]
        tuned = original(units, weights, activations, *rest)
        for quantizer in activations.values():
            quantizer.scaling = Scaling(torch.tensor(torch.nan), quantizer.scaling.zero_point)
        return tuned

    monkeypatch.setattr(groups, "tune", poisoned)
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
    """Whether the two layers, joined, keep what they learned when it changed each value's loss by a factor.

    Args:
        factor: of a value's name and those of the values that are read after the group, the last layer's last.
    """
    original = stream.Stream.run_quantized
    calls = 0

    def changed(self, units, keep):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        losses = original(self, units, keep)
        if calls != 2:  # the second is after tuning
            return losses
        lasting = list(self.targets(units))
        return {name: loss * factor(name, lasting) for name, loss in losses.items()}

    monkeypatch.setattr(stream.Stream, "run_quantized", changed)
    torch.manual_seed(0)
    (group,) = run(model.eval(), "w4a4-brecq", Plan(groups=(("a", "b"),))).record.groups
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


@pytest.mark.parametrize("probability", [0.25, 0.5, 1.0])
def test_learning_reads_elements_of_both_networks(
    probability: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QDrop, eq. 8: each element behind the quantized units, or with 1 - p from the float network."""
    batches: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    read: list[dict[str, Tensor]] = []
    take, run_units = Step.__call__, step.run_units

    def watched(self: Step, batch: Batch, numbers: Numbers) -> Tensor:
        batches.append(({n: v.clone() for n, v in batch.plain.items()}, dict(batch.quantized)))
        return take(self, batch, numbers)

    def reads(units, given):  # type: ignore[no-untyped-def]
        read.append({name: value.clone() for name, value in given.items()})
        return run_units(units, given)

    monkeypatch.setattr(Step, "__call__", watched)
    monkeypatch.setattr(step, "run_units", reads)
    run(toys.make("residual"), "w2a2-qdrop", keep_quantized_probability=probability)
    from_quantized, compared = 0, 0
    for (plain, quantized), given in zip(batches, read, strict=True):
        assert given.keys() == quantized.keys()
        for name, value in plain.items():
            differ = value != quantized[name]
            kept = given[name] == quantized[name]
            torch.testing.assert_close(given[name][~kept], value[~kept], rtol=1e-5, atol=1e-6)
            from_quantized += int((kept & differ).sum())
            compared += int(differ.sum())
    if probability == 1:
        assert compared == 0
        assert all(
            torch.equal(g[n], q[n]) for (_, q), g in zip(batches, read, strict=True) for n in q
        )
    else:
        assert compared > 1000
        assert from_quantized / compared == pytest.approx(probability, abs=0.02)


@pytest.mark.parametrize("unit", ["relative", "absolute"])
def test_a_step_moves_by_the_rate_in_its_unit(unit: str) -> None:
    """Adam's first step is the rate itself, whatever the gradient: of the activation step, or absolute as in LSQ's code."""
    toy, rate = toys.make("residual"), 0.01
    before = scales(run(toy, "w8a4-brecq", steps=0))
    after = scales(run(toy, "w8a4-brecq", steps=1, activation_rate=rate, activation_rate_unit=unit))
    moved = {name for name in before if before[name] != after[name]}
    assert moved
    assert max(before.values()) > 2 * min(before.values())
    for name in moved:
        distance = abs(after[name] - before[name])
        expected = rate * before[name] if unit == "relative" else rate
        assert distance == pytest.approx(
            expected, rel=0.2
        )  # less by Adam's ε, where a slope is tiny


class Prescribed(RecipePlacement):
    """One step for all activations, given from outside."""

    def _activation_spec(self, tensor: fx.Node, bits: int) -> FixedQParamsQuantizationSpec:  # type: ignore[override]
        return FixedQParamsQuantizationSpec(torch.uint8, 1 / 64, 100, 0, 255)


def test_steps_that_a_target_prescribes_are_not_learned() -> None:
    """Neither group by group nor in the network as a whole; roundings are."""
    settings = QUICK | {"reconstruct.network_share": 1.0, "reconstruct.activation_rate": 0.1}
    recipe = mrecg.preset("w2a8-brecq", settings | {"reconstruct.steps": 40})
    placement = Prescribed(recipe.placement, recipe.weight, recipe.activation)
    quantized = mrecg.quantize(
        toys.make("residual"), toys.images(32), recipe=recipe, quantizer=placement
    )
    assert set(scales(quantized).values()) == {1 / 64}
    assert all(unit.loss < unit.nearest_loss for unit in quantized.record.units[:-1])
    assert quantized.record.network is not None


def test_nothing_stays_in_storage_after_the_groups() -> None:
    storage = Storage(torch.device("cpu"))
    recipe = mrecg.preset("w4a4-qdrop", QUICK)
    from mrecg.preparation.prepared_model import assemble

    from mrecg.planning.joint_plan import make_plan

    images = toys.images(16)
    assembly = assemble(toys.make("two-outputs"), images, recipe, None)
    groups.reconstruct(
        assembly,
        images,
        recipe,
        make_plan(assembly.chain.units, recipe.plan),
        "tune",
        lambda event: None,
        storage,
    )
    assert sum(storage.most.values()) > 0
    assert set(storage.held.values()) == {0}


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_the_run_for_the_plan_may_take_all_steps(fraction: float) -> None:
    """Then units that stay single keep what it found."""
    recipe = mrecg.preset(
        "w2a2-qdrop-mrecg", QUICK | {"plan.join": "loss", "plan.loss_steps": fraction}
    )
    record = mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe).record
    for group in record.groups:
        expected = 8 if len(group.units) > 1 else round(8 * (1 - fraction))
        assert group.steps == expected


class Shared(RecipePlacement):
    """All that a concatenation joins has one range, as integer backends need it."""

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        super().annotate(model)
        joins = [n for n in model.graph.nodes if n.target is torch.ops.aten.cat.default]
        for join in joins:
            first, *others = join.all_input_nodes
            edges = {first: self._activation_spec(first, 8)}
            edges |= {one: SharedQuantizationSpec((first, join)) for one in others}
            join.meta["quantization_annotation"] = QuantizationAnnotation(
                input_qspec_map=edges,
                output_qspec=SharedQuantizationSpec((first, join)),
                _annotated=True,
            )
        return model


class Joined(nn.Module):
    """Two branches of very different size, the larger one first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1)
        self.fc = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.cat([20 * self.a(x).relu(), self.b(x).relu()], 1))


def test_a_range_that_operands_share_reaches_all_of_them() -> None:
    recipe = mrecg.preset(
        "w8a8-rtn", {"weight.symmetric": True, "activation.ranges.method": "minmax"}
    )
    placement = Shared(recipe.placement, recipe.weight, recipe.activation)
    model = Joined().eval()
    quantized = mrecg.quantize(model, toys.images(32), recipe=recipe, quantizer=placement)
    assert quantized.record.units[-1].relative_loss < 1e-3


class Block(nn.Module):
    def __init__(self, channels: int, size: float = 1) -> None:
        super().__init__()
        self.a, self.b, self.size = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, 4, 1), size

    def forward(self, x: Tensor) -> Tensor:
        return self.size * self.b(self.a(x).relu()).relu()


class ReadTwice(nn.Module):
    """The first block's values are read by the second, before they are joined with its larger ones."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = Block(2), Block(4, size=30), Block(8)
        self.fc = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        return self.fc(self.three(torch.cat([x, self.two(x)], 1)))


def test_a_range_is_shared_within_one_unit() -> None:
    """Units are calibrated one after the other: what a range must reach has to be in one of them."""
    recipe = mrecg.preset(
        "w8a8-rtn", {"weight.symmetric": True, "activation.ranges.method": "minmax"}
    )
    placement = Shared(recipe.placement, recipe.weight, recipe.activation)
    torch.manual_seed(0)
    model = ReadTwice().eval()
    quantized = mrecg.quantize(model, toys.images(32), recipe=recipe, quantizer=placement)
    assert all(unit.relative_loss < 1e-2 for unit in quantized.record.units)


class TwoWidths(RecipePlacement):
    """Every layer wants its input in a width of its own."""

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        super().annotate(model)
        layers = [n for n in model.graph.nodes if n.target is torch.ops.aten.conv2d.default]
        for layer in layers:
            layer.args[0].meta.pop("quantization_annotation", None)
        for layer in layers:
            source, weight = layer.args[:2]
            bits = 2 if weight.target == "b.weight" else 8
            layer.meta["quantization_annotation"] = QuantizationAnnotation(
                input_qspec_map={
                    source: self._activation_spec(source, bits),
                    weight: self._weight_spec(layer, 8),
                },
                _annotated=True,
            )
        return model


def test_readers_of_one_tensor_with_two_grids() -> None:
    class TwoReaders(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x).relu()
            return torch.cat([self.b(x), self.c(x)], 1)

    recipe = mrecg.preset("w8a8-rtn")
    placement = TwoWidths(recipe.placement, recipe.weight, recipe.activation)
    model = TwoReaders().eval()
    quantized = mrecg.quantize(model, toys.images(32), recipe=recipe, quantizer=placement)
    activations = [one for one in quantized.record.quantizers if one.kind == "activation"]
    widths = {one.readers: one.high for one in activations}
    assert widths == {("a",): 255, ("b",): 3, ("c",): 255}
    assert len({one.name for one in activations}) == 3
    images = toys.images(32)
    with torch.no_grad():
        wanted, found = model(images), quantized.model(images)
    errors = (found - wanted).square().mean((0, 2, 3)) / wanted.square().mean((0, 2, 3))
    assert errors[:4].mean() > 100 * errors[4:].mean()


def test_steps_alone_do_not_stop_early() -> None:
    """Where no rounding is learned, none is undecided; the noise of dropping would end every group."""
    settings = QUICK | {"reconstruct.steps": 100, "reconstruct.early_stop": True}
    recipe = mrecg.preset("w4a2-qdrop", settings | {"reconstruct.exclude": ["*"]})
    record = mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe).record
    assert {group.steps for group in record.groups if group.steps} == {100}


def test_neighbouring_seeds_have_nothing_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[list[int]] = []
    original = groups.tune

    def watched(units, weights, activations, plain, quantized, targets, settings, seed, *rest):  # type: ignore[no-untyped-def]
        orders.append(next(shuffled_batches(32, settings, seed)).tolist())
        return original(
            units, weights, activations, plain, quantized, targets, settings, seed, *rest
        )

    monkeypatch.setattr(groups, "tune", watched)
    for seed in (1, 2, 3):
        recipe = mrecg.preset("w4a4-brecq-mrecg", QUICK | {"seed": seed})
        mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe)
    assert len(orders) > 9
    assert len(set(map(tuple, orders))) == len(orders)


def test_runs_leave_nothing_in_memory() -> None:
    """torchao would keep every model that it prepared."""

    def live_bytes() -> int:
        gc.collect()
        tensors = [one for one in gc.get_objects() if type(one) in (Tensor, nn.Parameter)]
        return sum(one.numel() * one.element_size() for one in tensors)

    model, images = toys.make("residual"), toys.images(32)
    recipe = mrecg.preset("w4a4-rtn")
    found = []
    for _ in range(3):
        mrecg.quantize(model, images, recipe=recipe)
        found.append(live_bytes())
    assert found[0] == found[1] == found[2]


class Padded(RecipePlacement):
    """Also quantizes the weight of a convolution whose padding is named, which no recipe does."""

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        super().annotate(model)
        for layer in model.graph.nodes:
            if layer.target is torch.ops.aten.conv1d.padding:
                layer.meta["quantization_annotation"] = QuantizationAnnotation(
                    input_qspec_map={layer.args[1]: self._weight_spec(layer, 3)}, _annotated=True
                )
        return model


def test_weights_that_only_a_foreign_placement_quantizes_are_learned_and_told() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3, padding="same"), nn.Conv1d(4, 3, 1)
    ).eval()
    recipe = mrecg.preset("w4a4-brecq", QUICK)
    placement = Padded(recipe.placement, recipe.weight, recipe.activation)
    x = torch.randn(32, 2, 16)
    record = mrecg.quantize(model, x, recipe=recipe, quantizer=placement).record
    assert record.left_in_float == ()
    weights = {one.tensor: one for one in record.quantizers if one.kind == "weight"}
    assert weights["2.weight"].readers == ("2",)
    assert (weights["2.weight"].low, weights["2.weight"].high) == (0, 7)
