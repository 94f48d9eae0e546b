"""`reconstruct.precision = fastest`: bfloat16 where the processor multiplies in it."""

from collections.abc import Mapping

import pytest
import torch

import mrecg
import toys
from mrecg.planning.precision import choose_precision

CPU = torch.device("cpu")
STEPS = {"reconstruct.steps": 3, "reconstruct.batch_size": 8, "network.steps": 2}


def multiply_in(monkeypatch: pytest.MonkeyPatch, capabilities: Mapping[str, bool]) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)


def test_bfloat16_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities in ({"avx512_bf16": True}, {"amx_bf16": True, "avx512_bf16": False}):
        multiply_in(monkeypatch, capabilities)
        assert choose_precision("fastest", CPU) == "bfloat16"
        assert choose_precision("fastest", torch.device("cuda")) == "float32"
        assert choose_precision("auto", CPU) == "float32"
    for capabilities in ({"avx512_bf16": False}, {}):
        multiply_in(monkeypatch, capabilities)
        assert choose_precision("fastest", CPU) == "float32"
        assert choose_precision("bfloat16", CPU) == "bfloat16"


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("side", [8, 66])
def test_a_run_takes_what_is_chosen(side: int, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default; bit for bit, and small images have the same bits on every processor."""
    multiply_in(monkeypatch, {"avx512_bf16": fast})
    model, images = toys.make("residual"), toys.normal(16, 2, side, side)
    expected = "bfloat16" if fast and side > 64 else "float32"
    automatic, chosen, other = (
        mrecg.quantize(model, images, recipe=mrecg.preset("w2a4-brecq", STEPS | settings))
        for settings in (
            {},
            {"reconstruct.precision": expected},
            {"reconstruct.precision": {"float32": "bfloat16", "bfloat16": "float32"}[expected]},
        )
    )
    state = automatic.program.state_dict
    for run, same in ((chosen, True), (other, False)):
        found = run.program.state_dict
        assert all(torch.equal(value, found[name]) for name, value in state.items()) == same
    assert {group.precision for group in automatic.record.groups} == {expected}
    assert automatic.record.network is not None
    assert automatic.record.network.precision == expected


def test_groups_without_steps_have_no_precision() -> None:
    run = mrecg.quantize(toys.make("residual"), toys.images(8), recipe="w4a4-rtn")
    assert {group.precision for group in run.record.groups} == {None}
