"""Budgets: the integer program is as good as trying every choice, and costs are those of the finished model."""

import itertools
import math
import os
from typing import Any

import pytest
import torch
from scipy import optimize

import mrecg
import toys
from mrecg.errors import RecipeError
from mrecg.mixed_precision.budgets import cost_of, read_budget
from mrecg.records.bit_choice import BitChoice
from mrecg.records.sensitivity import LayerCost, Sensitivity, UnitHarms, WidthHarm

BITS = (2, 4, 8)


def made_up(seed: int) -> Sensitivity:
    """Three layers; the last two read one tensor, and the weight of the last is prescribed."""
    generator = torch.Generator().manual_seed(seed)
    owners = {"a": ("a", "a"), "b": ("b", "b"), "c": (None, "b")}

    def harms() -> tuple[WidthHarm, ...]:
        values = torch.rand(len(BITS), generator=generator).sort(descending=True).values.tolist()
        return tuple(WidthHarm(bits=b, harm=h) for b, h in zip(BITS, values, strict=True))

    units = [UnitHarms(name=n, kind="weight", layers=(n,), harms=harms()) for n in "ab"]
    units += [
        UnitHarms(name=n, kind="activation", layers=layers, harms=harms())
        for n, layers in (("a", ("a",)), ("b", ("b", "c")))
    ]
    layers = tuple(
        LayerCost(
            name=name,
            parameters=100 * place + 7,
            bytes_besides=16,
            zero_points=4,
            products=1000 * place + 3,
            weight_bits=8,
            activation_bits=8,
            weight_unit=owners[name][0],
            activation_unit=owners[name][1],
        )
        for place, name in enumerate("abc", start=1)
    )
    return Sensitivity(
        distance="divergence",
        granularity="layer",
        after=0,
        images=2,
        units=tuple(units),
        wholes=(),
        layers=layers,
        other_bytes=20,
        seconds=0,
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("budget", ["3.3bits", "500B", "100kBOPs", "8bits"])
def test_no_choice_within_the_budget_is_better(seed: int, budget: str) -> None:
    found = made_up(seed)
    limit = read_budget(budget)
    units = found.units if limit.unit == "bops" else found.of_kind("weight")
    best = math.inf
    for widths in itertools.product(BITS, repeat=len(units)):
        choice = {(u.kind, u.name): b for u, b in zip(units, widths, strict=True)}
        if getattr(cost_of(found.layers, found.other_bytes, choice), limit.unit) <= limit.amount:
            best = min(best, sum(u.harm_at(b) for u, b in zip(units, widths, strict=True)))
    chosen = mrecg.choose_bits(found, budget)
    assert getattr(chosen.cost, limit.unit) <= limit.amount
    assert chosen.harm == pytest.approx(best)


def test_costs_are_sums_over_layers() -> None:
    found = made_up(0)
    widths = {("weight", "a"): 2, ("weight", "b"): 4, ("activation", "a"): 4}
    cost = cost_of(found.layers, found.other_bytes, widths)
    assert cost.bits == pytest.approx((107 * 2 + 207 * 4) / (107 + 207))
    assert cost.bytes == (27 + 1 + 16) + (104 + 2 + 16) + (307 + 4 + 16) + 20
    assert cost.bops == 1003 * 2 * 4 + 2003 * 4 * 8 + 3003 * 8 * 8


@pytest.mark.parametrize("backend", ["academic", "openvino"])
def test_a_choice_becomes_a_model_of_its_size(backend: str) -> None:
    """What is chosen is what `quantize` places, and its bytes are those of the record."""
    torch.manual_seed(0)
    model, x = toys.Residual().eval(), toys.images(8)
    recipe = mrecg.preset("w4a8-rtn")
    recipe = recipe if backend == "academic" else recipe.for_backend(backend)
    found = mrecg.sensitivity(model, x, recipe, weight_bits=(2, 3, 7), progress=False)
    chosen = mrecg.choose_bits(found, "3.5bits")
    assert chosen.cost.bits <= 3.5
    mixed = recipe.override(
        {"placement.overrides": [one.model_dump() for one in chosen.overrides()]}
    )
    record = mrecg.quantize(model, x, recipe=mixed, progress=False).record
    widths = {layer.name: layer.bits for unit in record.units for layer in unit.layers}
    assert {one.layers[0]: one.bits for one in chosen.widths}.items() <= widths.items()
    assert record.size is not None
    assert record.size.quantized_bytes == chosen.cost.bytes


def test_what_the_solver_prints_does_not_reach_stdout(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where a command's JSON goes: HiGHS is C++, and some of its versions print a line of their own."""
    solve = optimize.milp

    def prints(*arguments: Any, **options: Any) -> Any:
        os.write(1, b"a line of the solver\n")
        return solve(*arguments, **options)

    monkeypatch.setattr(optimize, "milp", prints)
    mrecg.choose_bits(made_up(0), "4bits")
    os.write(1, b"a line of ours\n")
    found = capfd.readouterr()
    assert found.out == "a line of ours\n"
    assert "a line of the solver" in found.err


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("budget", ["4bits", "600B", "100kBOPs"])
def test_the_front_falls_and_holds_what_every_uniform_width_could_do(
    seed: int, budget: str
) -> None:
    chosen, unit = mrecg.choose_bits(made_up(seed), budget), read_budget(budget).unit
    mixed = [point for point in chosen.front if point.uniform is None]
    uniform = [point for point in chosen.front if point.uniform is not None]
    assert [point.uniform for point in uniform] == list(BITS)
    harms = [point.harm for point in mixed]
    assert harms == sorted(harms, reverse=True)
    for point in uniform:
        limit = getattr(point.cost, unit) + 1e-9
        within = [one.harm for one in mixed if getattr(one.cost, unit) <= limit]
        assert min(within) <= point.harm + 1e-9
    assert BitChoice.parse(chosen.to_json().encode(), "x") == chosen


@pytest.mark.parametrize("budget", ["", "4", "bits", "-1bits", "4 stones", "1e3MB", "0x4bits"])
def test_budgets_that_cannot_be_read(budget: str) -> None:
    with pytest.raises(RecipeError, match=r"such as 4\.0bits, 1\.2MB or 0\.5GBOPs"):
        read_budget(budget)


@pytest.mark.parametrize(
    ("text", "unit", "amount"),
    [
        ("4.0bits", "bits", 4.0),
        ("1 bit", "bits", 1.0),
        ("1.2MB", "bytes", 1.2e6),
        ("2KiB", "bytes", 2048),
        ("500 bytes", "bytes", 500),
        ("0.5gbops", "bops", 5e8),
    ],
)
def test_budgets_as_people_write_them(text: str, unit: str, amount: float) -> None:
    found = read_budget(text)
    assert (found.unit, found.amount) == (unit, amount)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ("1.5bits", "takes 2bits; give as much"),
        ("100B", "takes 0.000"),
        ("1BOPs", "takes 0.0"),
    ],
)
def test_a_budget_that_no_choice_keeps(budget: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        mrecg.choose_bits(made_up(0), budget)
