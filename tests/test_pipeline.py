"""The method end to end on small networks: contracts over every preset, and what a run promises."""

import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mrecg
import toys
from mrecg.config.presets import METHODS
from mrecg.errors import PlanError, RunError
from mrecg.optimize.progress import Progress
from mrecg.planning.estimate import Estimate
from mrecg.records.plan import Plan
from quick import quick, run

PRESETS = [f"{method}{suffix}" for method in METHODS for suffix in ("", "-mrecg")]


def first(value: Tensor | tuple[Tensor, ...]) -> Tensor:
    return value if isinstance(value, Tensor) else value[0]


@pytest.mark.parametrize("toy", ["residual", "vit"])
@pytest.mark.parametrize("method", PRESETS)
def test_every_preset_gives_codes_within_their_range(method: str, toy: str) -> None:
    model = toys.make(toy)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quantized = run(model, quick(f"w3a3-{method}"))
    state = quantized.model.state_dict()
    weights = {q.tensor: q for q in quantized.record.quantizers if q.kind == "weight"}
    assert weights
    for tensor, quantizer in weights.items():
        owner, _, attribute = tensor.rpartition(".")
        codes = state[f"{owner}.quantized_{attribute}.codes"]
        assert not codes.is_floating_point()
        assert codes.min() >= quantizer.low
        assert codes.max() <= quantizer.high
        assert codes.shape == before[tensor].shape
        assert tensor not in state  # no float weight stays behind
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert quantized.record.left_in_float == ()
    assert torch.isfinite(quantized.model(toys.images(5))).all()


@pytest.mark.parametrize("toy", toys.TOYS)
def test_saved_runs_reload_bit_for_bit(toy: str, tmp_path: Path) -> None:
    quantized = run(toys.make(toy), quick())
    folder = quantized.save(tmp_path / "run")
    loaded = mrecg.load(folder)
    x = toys.images(7, seed=5)
    assert torch.equal(first(loaded.model(x)), first(quantized.model(x)))
    assert loaded.record == quantized.record
    assert loaded.recipe == quantized.recipe
    assert sorted(path.name for path in folder.iterdir()) == [
        "graph.json",
        "model.safetensors",
        "recipe.yaml",
        "record.json",
        "report.html",
    ]
    assert (
        len({path.stat().st_mode for path in folder.iterdir()}) == 1
    )  # who may read one, may read all
    assert loaded.model.eval() is loaded.model
    loaded.model.train()


def test_the_exported_model_is_the_simulated_one() -> None:
    """The last unit's loss in the record is the loss of the finished model's logits, unless the whole is optimized after."""
    model, x = toys.make("residual"), toys.images(32)
    record_of = run(model, quick("w2a2-brecq", network__steps=0), x)
    error = (record_of.model(x) - model(x)).detach().square().sum(1).mean()
    assert float(error) == pytest.approx(record_of.record.units[-1].loss, rel=1e-4)


def test_the_same_seed_gives_the_same_bits() -> None:
    logits = [
        run(toys.make("residual"), quick("w2a2-qdrop-mrecg", seed=seed)).model(toys.images(4))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_float_width_changes_nothing() -> None:
    model, x = toys.make("residual"), toys.images(32)
    quantized = run(model, quick("w32a32-brecq", placement__first_last_bits=32), x)
    assert quantized.record.quantizers == ()
    assert "stage.two.project" in quantized.record.left_in_float
    torch.testing.assert_close(quantized.model(x), model(x), rtol=1e-4, atol=1e-5)


def test_eight_bits_change_little() -> None:
    model, x = toys.make("residual"), toys.images(32)
    for method in ("rtn", "brecq"):
        quantized = run(model, quick(f"w8a8-{method}"), x)
        assert quantized.record.units[-1].relative_loss < 1e-3


def test_a_plan_of_singletons_is_block_reconstruction() -> None:
    model, x = toys.make("residual"), toys.images(32)
    blocks = run(model, quick("w2a2-qdrop"), x)
    single = Plan(groups=tuple((unit.name,) for unit in blocks.record.units))
    planned = mrecg.quantize(model, x, recipe=quick("w2a2-qdrop-mrecg"), plan=single)
    assert torch.equal(planned.model(x), blocks.model(x))
    joined = Plan(groups=(("stem",), ("stage.one", "stage.two"), ("stage.three",), ("fc",)))
    recipe = quick("w2a2-qdrop-mrecg", plan__keep="all")
    other = mrecg.quantize(model, x, recipe=recipe, plan=joined)
    assert not torch.equal(other.model(x), blocks.model(x))
    assert other.record.plan == joined
    assert [group.units for group in other.record.groups] == list(joined.groups)


def test_reconstruction_beats_rounding_to_nearest() -> None:
    model, x = toys.make("residual"), toys.images(32)
    nearest = run(model, quick("w2a4-rtn"), x).record.units[-1].relative_loss
    for method in ("adaround", "brecq", "qdrop-mrecg"):
        recipe = quick(f"w2a4-{method}", reconstruct__steps=60, network__steps=8)
        assert run(model, recipe, x).record.units[-1].relative_loss < 0.7 * nearest


def test_record_tells_what_happened() -> None:
    reported: list[Progress | Estimate] = []
    recipe = quick("w2a2-qdrop-mrecg", plan__join="loss", reconstruct__steps=20)
    quantized = mrecg.quantize(
        toys.make("residual"), toys.images(32), recipe=recipe, progress=reported.append
    )
    events = [event for event in reported if isinstance(event, Progress)]
    record = quantized.record
    phases = ["capture", "plan", "estimate", "tune", "network", "freeze"]
    assert list(dict.fromkeys(event.phase for event in events)) == phases
    for phase in phases:
        last = [event for event in events if event.phase == phase][-1]
        assert last.finished
        assert last.done == 1
    finished = [event for event in events if event.finished and event.phase == "tune"]
    assert len(finished) == finished[-1].groups <= len(record.groups)
    assert all(0 <= group.undecided <= 1 for group in record.groups)
    for group in record.groups:
        # Units have had a quarter of their steps in the run for the plan.
        assert group.steps == 15 * len(group.units)
    assert record.plan.metric
    assert len(record.plan.metric) == len(record.units)
    ends = {group.units[-1] for group in record.groups}
    assert record.oscillation.largest_loss == max(
        unit.relative_loss for unit in record.units if unit.name in ends
    )
    assert record.network is not None
    assert record.network.steps == 20
    assert set(record.seconds) == {"capture", "plan", "reconstruction", "network", "freeze"}
    assert record.environment["torch"] == torch.__version__
    assert record.environment["processor"].endswith(torch.backends.cpu.get_cpu_capability())
    assert record.images == 32


def test_a_plan_of_another_model_costs_nothing() -> None:
    plan = Plan(groups=(("stem",), ("other",)))
    with pytest.raises(PlanError, match="'other'"):
        mrecg.quantize(toys.make("residual"), toys.images(16), recipe=quick(), plan=plan)


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


def test_a_finished_run_is_never_overwritten(tmp_path: Path) -> None:
    quantized = run(toys.make("chain"), quick("w4a4-rtn"))
    folder = quantized.save(tmp_path / "run")
    with pytest.raises(RunError, match="already holds a finished run"):
        quantized.save(folder)
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        quantized.save(occupied)
    (tmp_path / "empty").mkdir()
    mrecg.load(quantized.save(tmp_path / "empty"))
    assert not list(tmp_path.glob(".mrecg-*"))  # no draft stays behind
