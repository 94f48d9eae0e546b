"""The method end to end on small networks: contracts over every preset, and what a run promises."""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import mrecg
import toys
from mrecg.config.presets import METHODS
from mrecg.errors import CaptureError, DataError, ModelError, PlanError, RunError
from mrecg.optimize.step import Batch, Numbers, Step
from mrecg.pipeline import Progress
from mrecg.records.plan import Plan
from mrecg.runs.folder import QuantizedModel

QUICK = {"reconstruct.steps": 8, "reconstruct.batch_size": 8}
PRESETS = [f"{method}{suffix}" for method in METHODS for suffix in ("", "-mrecg")]


def quick(name: str = "w2a4-qdrop", **overrides: object) -> mrecg.Recipe:
    steps = {} if "rtn" in name else QUICK
    return mrecg.preset(name, steps | {k.replace("__", "."): v for k, v in overrides.items()})


def run(model: nn.Module, recipe: mrecg.Recipe, x: Tensor | None = None) -> QuantizedModel:
    return mrecg.quantize(model, toys.images(32) if x is None else x, recipe=recipe)


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
    ]
    assert (
        len({path.stat().st_mode for path in folder.iterdir()}) == 1
    )  # who may read one, may read all
    assert loaded.model.eval() is loaded.model
    loaded.model.train()


def test_the_exported_model_is_the_simulated_one() -> None:
    """The last unit's loss in the record is the loss of the finished model's logits, unless the whole is tuned after."""
    model, x = toys.make("residual"), toys.images(32)
    record_of = run(model, quick("w2a2-brecq", reconstruct__network_share=0), x)
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
    other = mrecg.quantize(model, x, recipe=quick("w2a2-qdrop-mrecg"), plan=joined)
    assert not torch.equal(other.model(x), blocks.model(x))
    assert other.record.plan == joined
    assert [group.units for group in other.record.groups] == list(joined.groups)


def test_reconstruction_beats_rounding_to_nearest() -> None:
    model, x = toys.make("residual"), toys.images(64)
    nearest = run(model, quick("w2a4-rtn"), x).record.units[-1].relative_loss
    for method in ("adaround", "brecq", "qdrop-mrecg"):
        recipe = quick(f"w2a4-{method}", reconstruct__steps=150)
        assert run(model, recipe, x).record.units[-1].relative_loss < 0.7 * nearest


def test_every_rounding_is_decided_at_a_short_budget() -> None:
    recipe = quick("w2a4-brecq", reconstruct__steps=500)
    groups = run(toys.make("residual"), recipe).record.groups
    assert max(group.undecided for group in groups) < 0.35


def test_each_unit_runs_a_fixed_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float once; quantized before and after tuning, and again where the tuning is taken back. Nothing runs from the
    first layer again."""
    from mrecg.cache import activation_cache as stream

    seen: list[stream.Stream] = []
    original = stream.Stream.__init__

    def remember(self: stream.Stream, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        seen.append(self)

    monkeypatch.setattr(stream.Stream, "__init__", remember)
    quantized = run(toys.make("residual"), quick("w2a2-brecq"))
    groups = quantized.record.groups
    assert seen[0].passes == {group.units[0]: 3 + (not group.accepted) for group in groups}
    assert seen[0].plain == seen[0].quantized == {}  # nothing is still held


def test_record_tells_what_happened() -> None:
    events: list[Progress] = []
    recipe = quick("w2a2-qdrop-mrecg", plan__join="loss", reconstruct__steps=20)
    quantized = mrecg.quantize(
        toys.make("residual"), toys.images(32), recipe=recipe, progress=events.append
    )
    record = quantized.record
    assert {event.phase for event in events} == {"plan", "tune", "network"}
    finished = [event for event in events if event.finished and event.phase == "tune"]
    assert len(finished) == len(record.groups) == finished[-1].groups
    assert all(0 <= group.undecided <= 1 for group in record.groups)
    for (
        group
    ) in record.groups:  # a single unit has had a quarter of its steps in the run for the plan
        assert group.steps == (15 if len(group.units) == 1 else 20)
    assert record.plan.metric
    assert len(record.plan.metric) == len(record.units)
    assert record.oscillation.largest_loss == max(unit.relative_loss for unit in record.units)
    assert record.network is not None
    assert record.network.steps == 4
    assert set(record.seconds) == {"capture", "plan", "reconstruction", "network", "freeze"}
    assert record.environment["torch"] == torch.__version__
    assert record.images == 32


def test_single_units_continue_from_the_run_for_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the codes and scales that it left, not anew from the float weights."""
    from mrecg.optimize import groups

    left: dict[str, tuple[Tensor, Tensor]] = {}
    resumed = []
    original = groups.tune

    def watched(units, weights, activations, *rest):  # type: ignore[no-untyped-def]
        resume = rest[-1]
        for name, (quantizer, _) in weights.items():
            if resume:
                resumed.append(name)
                assert torch.equal(quantizer.codes, left[name][0])
                assert torch.equal(quantizer.scaling.scale, left[name][1])
        tuned = original(units, weights, activations, *rest)
        for name, (quantizer, _) in weights.items():
            left[name] = quantizer.codes, quantizer.scaling.scale
        return tuned

    monkeypatch.setattr(groups, "tune", watched)
    recipe = quick("w2a2-qdrop-mrecg", plan__join="loss", plan__count=1, reconstruct__steps=40)
    record = run(toys.make("residual"), recipe).record
    single = [unit.layers for unit in record.units if (unit.name,) in record.plan.groups]
    assert len(resumed) == sum(map(len, single)) > 0


def test_a_group_stops_when_nothing_moves_any_more() -> None:
    settings = {"reconstruct__penalty": 10.0, "reconstruct__steps": 200}
    steps = {}
    for early_stop in (True, False):
        recipe = quick("w4a8-brecq", **settings, reconstruct__early_stop=early_stop)
        groups = run(toys.make("residual"), recipe).record.groups
        steps[early_stop] = [group.steps for group in groups]
        assert all(g.undecided <= 1e-3 for g in groups if g.steps < 200)
    assert set(steps[False]) == {200}
    assert min(steps[True]) < 200


def test_no_step_leaves_a_tensor_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that outlived its step would keep the large ones around it apart, and memory would grow with the steps."""
    left: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    take = Step.__call__

    def watched(step: Step, batch: Batch, numbers: Numbers) -> Tensor:
        alive.append(sum(tensor() is not None for tensor in left))
        loss = take(step, batch, numbers)
        left.extend(map(weakref.ref, (loss, *batch.quantized.values(), *batch.targets.values())))
        return loss

    monkeypatch.setattr(Step, "__call__", watched)
    run(toys.make("residual"), quick("w2a2-qdrop", reconstruct__steps=40))
    assert len(left) > 100
    assert max(alive) <= 3  # the last step's, which its caller still holds


@pytest.mark.parametrize("batches", ["reshuffled", "fixed"])
def test_batches(batches: str) -> None:
    from mrecg.optimize.group import shuffled_batches

    settings = quick(reconstruct__batches=batches).reconstruct
    stream = shuffled_batches(35, settings, seed=0)
    drawn = [next(stream) for _ in range(8)]
    assert all(len(set(batch.tolist())) == 8 for batch in drawn)
    if batches == "fixed":
        assert {tuple(batch.tolist()) for batch in drawn} <= {
            tuple(range(first, first + 8)) for first in range(0, 32, 8)
        }
    else:
        assert len(set(torch.cat(drawn[:4]).tolist())) == 32
        assert len({tuple(batch.tolist()) for batch in drawn}) == 8


@pytest.mark.parametrize(
    "calibration",
    [
        lambda x: x,
        lambda x: x.split(10),
        lambda x: list(x),
        lambda x: [(batch, torch.zeros(len(batch))) for batch in x.split(16)],
        lambda x: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=5),
    ],
)
def test_calibration_comes_in_many_forms(calibration: object) -> None:
    x = toys.images(32)
    recipe = quick("w4a4-rtn")
    expected = mrecg.quantize(toys.make("chain"), x, recipe=recipe).model(x)
    got = mrecg.quantize(toys.make("chain"), calibration(x), recipe=recipe).model(x)  # type: ignore[operator]
    assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ([], "empty"),
        (toys.images(0), "empty"),
        (toys.images(4), "has 4 images, expected at least 8"),
        ([toys.images(8), toys.images(8)[:, :1]], r"item 1 has images of shape \(1, 8, 8\)"),
        (toys.images(16).double(), "float64, expected float32"),
        ((toys.images(16) * 9).to(torch.uint8), "uint8, expected float32"),
        (toys.images(16).index_fill(0, torch.tensor([3]), torch.nan), "Image 3 .* NaN"),
        (["a path"], "is a str"),
    ],
)
def test_calibration_that_cannot_be_used(calibration: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        mrecg.quantize(toys.make("chain"), calibration, recipe=quick())  # type: ignore[arg-type]


def test_a_model_without_layers() -> None:
    with pytest.raises(CaptureError, match="no convolution or linear layer"):
        run(nn.Sequential(nn.BatchNorm2d(2), nn.ReLU()), quick())


def test_a_model_that_is_one_layer() -> None:
    quantized = run(nn.Conv2d(2, 3, 3), quick("w8a8-brecq"))
    assert [unit.layers[0].kind for unit in quantized.record.units] == ["conv2d"]


def test_weights_that_are_not_finite() -> None:
    model = toys.make("chain")
    model[2].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"'2\.weight' holds NaN"):
        run(model, quick())


def test_a_plan_of_another_model_costs_nothing() -> None:
    plan = Plan(groups=(("stem",), ("other",)))
    with pytest.raises(PlanError, match="'other'"):
        mrecg.quantize(toys.make("residual"), toys.images(16), recipe=quick(), plan=plan)


class Classes(nn.Module):
    """Returns what its caller asks for: logits are floats, classes and masks are not, and a mean has no batch."""

    def __init__(self, *returned: str) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 1)
        self.returned = returned

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.head(self.stem(x).relu())
        every = {"logits": y, "classes": y.argmax(1), "mask": y > 0, "mean": y.mean()}
        return tuple(every[name] for name in self.returned)


@pytest.mark.parametrize(
    "returned",
    [("classes",), ("mean",), ("logits", "classes"), ("mask", "logits", "mean")],
)
def test_results_that_are_no_signals(returned: tuple[str, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = Classes(*returned).eval(), toys.images(32)
    logits = Classes("logits").eval()
    logits.load_state_dict(model.state_dict())
    expected = run(logits, quick("w4a4-brecq"))
    quantized = run(model, quick("w4a4-brecq"))
    losses = [unit.loss for unit in quantized.record.units]
    assert losses == [unit.loss for unit in expected.record.units]
    loaded = mrecg.load(quantized.save(tmp_path / "run"))
    for found, wanted, again in zip(
        quantized.model(images), model(images), loaded.model(images), strict=True
    ):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        assert torch.equal(found, again)


def test_models_that_remember_what_they_computed() -> None:
    model = toys.make("chain")
    model.last = model(toys.images(4))  # type: ignore[assignment]
    assert model.last.requires_grad
    images = toys.images(32)
    expected = run(toys.make("chain"), quick("w4a4-rtn")).model(images)
    assert torch.equal(run(model, quick("w4a4-rtn")).model(images), expected)
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(2, 4, 3)), nn.Flatten())
    assert run(model, quick("w8a8-rtn")).record.units[0].relative_loss < 1e-3


@contextlib.contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "mode",
    [
        torch.inference_mode,
        torch.no_grad,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: default_type(torch.float64),
    ],
)
def test_the_callers_modes_change_nothing(
    mode: Callable[[], contextlib.AbstractContextManager[object]],
) -> None:
    recipe, images = quick("w4a4-qdrop-mrecg"), toys.images(32)
    expected = run(toys.make("residual"), recipe, images)
    model = toys.make("residual")
    with mode():
        found = run(model, recipe, images.clone())
    losses = [unit.loss for unit in expected.record.units]
    assert [unit.loss for unit in found.record.units] == losses
    assert torch.equal(found.model(images), expected.model(images))
    assert torch.get_default_dtype() == torch.float32
    learns = images.clone().requires_grad_()
    assert torch.equal(
        run(toys.make("residual"), recipe, learns).model(images), expected.model(images)
    )


class Sequences(nn.Module):
    """Reads 2 channels of 16 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(2, 4, 3), nn.Conv1d(4, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu()).mean(2)


def test_items_that_are_no_images() -> None:
    torch.manual_seed(0)
    x, labels, recipe = torch.randn(32, 2, 16), torch.arange(32), quick("w4a4-rtn")
    model = Sequences().eval()
    expected = run(model, recipe, x).model(x)
    pairs = TensorDataset(x, labels)
    for items in (DataLoader(pairs, 8), [(one, int(label)) for one, label in pairs], list(pairs)):
        assert torch.equal(mrecg.quantize(model, items, recipe=recipe).model(x), expected)
    vectors = torch.randn(32, 12)
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    expected = run(model, recipe, vectors).model(vectors)
    found = mrecg.quantize(model, list(vectors), recipe=recipe)
    assert torch.equal(found.model(vectors), expected)


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
