"""Optimizing the network as a whole, after its groups."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mrecg
import toys
from mrecg import pipeline
from mrecg.graph.inputs import ChosenInputs
from mrecg.optimize import network_objective
from mrecg.preparation.judging import split_counts, split_images
from mrecg.quantizers.state import QuantizerState
from mrecg.runs.folder import QuantizedModel

STEPS = {"reconstruct.steps": 16, "reconstruct.batch_size": 8}
SCALES = STEPS | {"network.learn": "scales"}


def run(
    toy: str,
    name: str = "w3a3-brecq",
    steps: int = 20,
    images: Tensor | None = None,
    **overrides: object,
) -> QuantizedModel:
    """Quantize a toy with `steps` of the network stage, which learns scales; `__` in a name stands for a dot."""
    changed = {key.replace("__", "."): value for key, value in overrides.items()}
    settings = SCALES | {"network.steps": steps} | changed
    x = toys.images(32) if images is None else images
    return mrecg.quantize(toys.make(toy), x, recipe=mrecg.preset(name, settings))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return a list that receives the images of each step, as both networks see them."""
    batches: list[Tensor] = []
    original = network_objective.NetworkObjective.__call__

    def watched(self: network_objective.NetworkObjective, images: Tensor, bindings: Any) -> Tensor:
        batches.append(images)
        return original(self, images, bindings)

    monkeypatch.setattr(network_objective.NetworkObjective, "__call__", watched)
    return batches


def fitted(learn: str) -> Tensor:
    """Return the images that tune: where codes are learned, every eighth is set aside."""
    images = toys.images(32)
    return images if learn == "scales" else images[torch.arange(32) % 8 > 0]


def codes(quantized: QuantizedModel) -> dict[str, Tensor]:
    state = quantized.model.state_dict()
    return {name: value for name, value in state.items() if name.endswith("codes")}


def everything(quantized: QuantizedModel) -> list[Tensor]:
    made = quantized.model(toys.images(8, seed=3))
    outputs = [made] if isinstance(made, Tensor) else list(made)
    return [*outputs, *quantized.model.state_dict().values()]


@pytest.mark.parametrize("learn", ["scales", "codes"])
@pytest.mark.parametrize("toy", toys.TOYS)
def test_the_better_state_is_kept(toy: str, learn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    optimize, kept = pipeline.optimize_network, []

    def watched(prepared: Any, state: QuantizerState, *others: Any) -> Any:
        found, record = optimize(prepared, state, *others)
        kept.append(found is state)
        return found, record

    monkeypatch.setattr(pipeline, "optimize_network", watched)
    settings = {"network__feature_weight": 0.0} if learn == "codes" else {}
    found = run(toy, network__learn=learn, **settings).record.network
    assert found is not None
    assert found.steps == 20
    assert found.accepted == (found.divergence_after < found.divergence_before)
    assert kept == [not found.accepted]


@pytest.mark.parametrize("learn", ["scales", "codes"])
def test_without_the_stage_there_are_the_groups(learn: str) -> None:
    groups = run("residual", steps=0, images=fitted(learn))
    whole = run("residual", network__learn=learn)
    assert groups.record.network is None
    assert whole.record.network is not None
    same = all(map(torch.equal, everything(groups), everything(whole)))
    assert same != whole.record.network.accepted


@pytest.mark.parametrize("learn", ["scales", "codes"])
def test_codes_change_where_they_are_learned(learn: str) -> None:
    before = codes(run("inception", "w2a2-brecq", steps=0, images=fitted(learn)))
    quantized = run("inception", "w2a2-brecq", steps=60, network__learn=learn)
    assert quantized.record.network is not None
    assert quantized.record.network.accepted
    after = codes(quantized)
    assert all(torch.equal(before[name], after[name]) for name in before) == (learn == "scales")


@pytest.mark.parametrize(
    ("toy", "learn"),
    [
        *((toy, "scales") for toy in ("chain", "inception", "vit")),
        *((toy, "codes") for toy in ("inception", "vit")),
    ],
)
def test_the_answer_comes_closer_on_images_that_nothing_was_fitted_to(toy: str, learn: str) -> None:
    """With the outputs alone: the logits of toys are so small that features outweigh their divergence."""
    settings: dict[str, object] = {
        "network__learn": learn,
        "network__feature_weight": float(learn == "scales"),
    }
    settings["reconstruct__answer"] = "logits"
    whole = run(toy, "w2a2-brecq", 100, reconstruct__steps=100, **settings).record.network
    assert whole is not None
    assert whole.divergence_after < 0.9 * whole.divergence_before


@pytest.mark.parametrize("toy", ["chain", "inception", "residual"])
@pytest.mark.parametrize("seed", range(3))
def test_the_recorded_divergence_is_the_finished_models(toy: str, seed: int) -> None:
    """Biases rounded to the scales that are shipped included: what was accepted is better as it is shipped."""
    model, mirrored = toys.make(toy), toys.images(32).flip(-1)
    quantized = run(
        toy,
        "w2a2-brecq",
        reconstruct__early_stop=seed % 2 == 0,
        reconstruct__penalty=10**-seed,
        reconstruct__answer="logits",
    )
    made, wanted = quantized.model(mirrored).log_softmax(1), model(mirrored).log_softmax(1)
    divergence = float((wanted.exp() * (wanted - made)).sum(1).mean().detach())
    found = quantized.record.network
    assert found is not None
    figure = found.divergence_after if found.accepted else found.divergence_before
    assert divergence == pytest.approx(figure, rel=2e-3, abs=2e-8)


@pytest.mark.parametrize("toy", ["inception", "residual", "vit"])
def test_learned_codes_are_judged_on_images_set_aside(toy: str) -> None:
    """Every eighth image: of the finished model, the recorded divergence is the one on these, at the recipe's temperature."""
    model, judged = toys.make(toy), toys.images(32)[::8]
    settings = {
        "network__augment": [],
        "reconstruct__answer": "logits",
        "network__feature_weight": 0.0,
    }
    quantized = run(toy, "w2a2-brecq", network__learn="codes", **settings)
    made, wanted = ((net(judged) / 4).log_softmax(1) for net in (quantized.model, model))
    divergence = 16 * float((wanted.exp() * (wanted - made)).sum(1).mean().detach())
    found = quantized.record.network
    assert found is not None
    figure = found.divergence_after if found.accepted else found.divergence_before
    assert divergence == pytest.approx(figure, rel=2e-3, abs=2e-7)


@pytest.mark.parametrize(("learn", "views"), [("scales", 0), ("codes", 7)])
def test_few_images_are_judged_in_views_too(
    learn: str, views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after the stage in the same ones, none made from an image that was fitted."""
    judged: list[Tensor] = []

    def divergence(self: object, images: Tensor, bindings: object) -> float:
        judged.append(images)
        return 1.0

    monkeypatch.setattr(network_objective.NetworkObjective, "divergence", divergence)
    run("residual", network__learn=learn, network__augment=["mirror"])
    before, after = judged
    aside = toys.images(32)[::8] if learn == "codes" else toys.images(32).flip(-1)
    assert torch.equal(before, after)
    assert len(before) == (1 + views) * len(aside)
    rows = before.view(-1, *aside.shape)
    assert all(torch.equal(row, aside) or torch.equal(row, aside.flip(-1)) for row in rows)


@pytest.mark.parametrize("learn", ["scales", "codes"])
def test_images_set_aside_are_fitted_by_nothing_that_learns_codes(
    learn: str, seen: list[Tensor]
) -> None:
    run("residual", network__learn=learn, network__augment=["mirror"])
    images, shown = toys.images(32), torch.cat(seen)
    is_shown = [
        any(torch.equal(image, one) or torch.equal(image.flip(-1), one) for one in shown)
        for image in images
    ]
    assert is_shown == [learn == "scales" or index % 8 > 0 for index in range(32)]
    assert any(torch.equal(images[1].flip(-1), one) for one in shown) == (learn == "codes")


def test_a_step_too_far_is_taken_back_bit_for_bit() -> None:
    groups = run("residual", steps=0, images=fitted("codes"))
    wild = run("residual", network__learn="codes", network__code_rate=10.0, network__scale_rate=1.0)
    assert wild.record.network is not None
    assert not wild.record.network.accepted
    assert all(map(torch.equal, everything(groups), everything(wild)))


def test_passes_of_a_few_images_add_up_to_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = run("residual", steps=8)
    monkeypatch.setattr(network_objective, "images_per_training_pass", lambda units: 3)
    in_parts = run("residual", steps=8)
    assert at_once.record.network is not None
    assert in_parts.record.network is not None
    assert in_parts.record.network.divergence_after == pytest.approx(
        at_once.record.network.divergence_after, rel=1e-2
    )
    scales = [
        [value for name, value in quantized.model.state_dict().items() if name.endswith("scale")]
        for quantized in (at_once, in_parts)
    ]
    for one, other in zip(*scales, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=0)


def test_an_answer_that_is_no_logits_counts_by_its_relative_error() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)).eval()
    x = toys.images(32)
    quantized = mrecg.quantize(model, x, recipe=mrecg.preset("w2a2-brecq", SCALES))
    mirrored = x.flip(-1)
    error = (quantized.model(mirrored) - model(mirrored)).square().mean() / model(x).square().mean()
    found = quantized.record.network
    assert found is not None
    figure = found.divergence_after if found.accepted else found.divergence_before
    assert float(error.detach()) == pytest.approx(figure, rel=1e-2)


def test_a_single_number_is_no_table_of_logits() -> None:
    """Its predictions never differ: the divergence would be 0 whatever the network answers."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1)).eval()
    recipe = mrecg.preset("w2a2-brecq", SCALES)
    found = mrecg.quantize(model, toys.images(32), recipe=recipe).record.network
    assert found is not None
    assert found.divergence_before > 0


def test_weight_scales_are_learned_where_activation_scales_stay() -> None:
    """Quantizers that learn nothing pass gradients on to what is before them."""
    moved = {}
    for steps in (0, 100):
        quantized = run(
            "chain",
            "w2a2-brecq",
            steps,
            reconstruct__activation_rate=0,
            reconstruct__steps=100,
        )
        moved[steps] = {q.tensor: (q.kind, q.scales) for q in quantized.record.quantizers}
    found = quantized.record.network
    assert found is not None
    assert found.accepted
    for name, (kind, scales) in moved[100].items():
        if name in ("2.weight", "6.weight"):  # which are not the last layer
            assert scales != moved[0][name][1], name
        if kind == "activation":
            assert scales == pytest.approx(moved[0][name][1], rel=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"network__steps": "auto", "reconstruct__steps": 0},
        {"reconstruct__weight_scale_rate": 0, "reconstruct__activation_rate": 0},
        {
            "network__learn": "codes",
            "reconstruct__exclude": ["*"],
            "reconstruct__activation_rate": 0,
        },
    ],
)
def test_there_may_be_nothing_to_optimize(settings: dict[str, Any]) -> None:
    assert run("chain", **settings).record.network is None


@pytest.mark.parametrize("learn", ["scales", "codes"])
def test_fixed_scales_are_left_alone(learn: str) -> None:
    settings = STEPS | {"network.learn": learn, "network.steps": 20}
    recipe = mrecg.preset("w8a8-brecq", settings).for_backend("vitis")
    quantized = mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe)
    for quantizer in quantized.record.quantizers:
        for scale in quantizer.scales:
            assert torch.tensor(scale).log2().frac() == 0


@pytest.mark.parametrize("learn", ["scales", "codes"])
def test_vectors_are_no_images(learn: str) -> None:
    """They have no mirror images and no patches, and are optimized all the same."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    recipe = mrecg.preset("w2a4-brecq", STEPS | {"network.learn": learn})
    assert mrecg.quantize(model, x, recipe=recipe).record.network is not None


def test_a_function_replaces_the_recipes_views(seen: list[Tensor]) -> None:
    """What it returns is what both networks answer."""
    recipe = mrecg.preset("w3a3-brecq", STEPS | {"network.steps": 3})
    x, given = toys.images(32), []

    def darken(images: Tensor) -> Tensor:
        given.append(images)
        return images / 2

    mrecg.quantize(toys.make("residual"), x, recipe=recipe, augment=darken)
    assert len(given) == 7 + 3  # 4 images judge in 8 ways, and there are 3 steps
    assert all(torch.equal(one / 2, other) for one, other in zip(given[7:], seen, strict=True))
    for image in torch.cat(given):
        assert any(torch.equal(image, one) for one in x)


def test_more_images_than_the_groups_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The groups read the first ones, the network stage reads all; those that judge are read by neither."""
    counts: dict[str, int] = {}
    groups, network = pipeline.optimize_groups, pipeline.optimize_network

    def watched_groups(*arguments: Any) -> Any:
        counts["groups"] = len(arguments[1].groups)
        return groups(*arguments)

    def watched_network(*arguments: Any) -> Any:
        counts["network"] = len(arguments[2].network)
        counts["judging"] = len(arguments[2].judging)
        return network(*arguments)

    monkeypatch.setattr(pipeline, "optimize_groups", watched_groups)
    monkeypatch.setattr(pipeline, "optimize_network", watched_network)
    record = run("residual", network__learn="codes", reconstruct__images=16).record
    assert counts == {"groups": 16, "network": 28, "judging": 4}
    assert record.images == 32


def test_images_that_are_set_aside_are_not_copied() -> None:
    """Nor are the others: calibration images are in memory once."""
    images = toys.images(32)
    split = split_images(images, mrecg.preset("w3a3-brecq", STEPS))
    assert isinstance(split.groups, ChosenInputs)
    assert isinstance(split.network, ChosenInputs)
    assert split.groups.inputs is split.network.inputs is images
    assert isinstance(split.judging, torch.Tensor)
    assert split.judging.data_ptr() == images.data_ptr()
    assert torch.equal(split.network[:7], images[1:8])


@pytest.mark.parametrize("learn", ["scales", "codes"])
def test_the_counts_of_images_are_those_of_the_split(learn: str) -> None:
    for images, first in ((32, None), (33, 8), (2, None)):
        recipe = mrecg.preset(
            "w3a3-brecq", STEPS | {"network.learn": learn, "reconstruct.images": first}
        )
        split = split_images(toys.images(images), recipe)
        assert split_counts(images, recipe) == (images, *map(len, split))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_feature_map_is_channels_last(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of gray images, too, whose strides have to say so: from the first convolution on layouts are handed down."""
    made: list[Tensor] = []

    def watched(run: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
        def watch(*given: Any) -> dict[str, Tensor]:
            values = run(*given)
            made.extend(one for one in values.values() if one.ndim == 4)
            return values

        return watch

    for name in ("run_float_units", "run_quantized_units"):
        monkeypatch.setattr(network_objective, name, watched(getattr(network_objective, name)))
    layers = (nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.ReLU())
    model = nn.Sequential(*layers, nn.Conv2d(6, 6, 3, groups=2), nn.Flatten(), nn.Linear(96, 5))
    settings = {"reconstruct.steps": 0, "reconstruct.batch_size": 8, "network.steps": 1}
    recipe = mrecg.preset("w4a4-brecq", settings)
    mrecg.quantize(model.eval(), toys.normal(16, channels, 8, 8), recipe=recipe)
    assert made
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in made)
    assert not any(one.is_contiguous() for one in made if one.shape[1] > 1)
