"""Numbers that are none have one outcome: rounding to nearest, which the record tells, or a sentence with unit and layer."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mrecg import load, preset, quantize
from mrecg.config.recipe import Recipe
from mrecg.errors import DataError, ModelError
from mrecg.optimize import group as group_module
from mrecg.optimize.adam import Adam
from mrecg.pipeline import prepare
from toys import Chain, normal

pytestmark = pytest.mark.usefixtures("unchecked_shapes")


def recipe(steps: int = 4, network: int = 0) -> Recipe:
    return preset("w4a4-qdrop-mrecg").override(
        {
            "reconstruct.steps": steps,
            "reconstruct.batch_size": 4,
            "network.steps": network,
            "plan.join": "none",
        }
    )


class Pooled(nn.Sequential):
    """A dead channel before a pooling whose root is infinitely steep at 0."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(),
            nn.LPPool2d(2, 2),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Flatten(),
            nn.Linear(64, 5),
        )
        with torch.no_grad():
            self[0].weight[1] = 0  # type: ignore[index]
            self[0].bias[1] = -1  # type: ignore[index, union-attr]


class Masked(Chain):
    """An output that holds −inf."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.arange(5) == 2
        return super().forward(x).masked_fill(hidden, -math.inf)


class Root(Chain):
    """NaN for images whose sum is negative."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * x.sum((1, 2, 3), keepdim=True).sqrt())


def large() -> nn.Module:
    model = Chain()
    with torch.no_grad():
        model[2].weight.fill_(1e38)  # type: ignore[union-attr, operator]
    return model


def test_an_infinite_slope_leaves_every_variable_a_number(tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = quantize(Pooled().eval(), normal(8, 2, 8, 8), recipe=recipe(), progress=False)
    assert all(math.isfinite(one.last_loss) and one.diverged is None for one in found.record.groups)
    assert all(math.isfinite(one.loss) for one in found.record.units)
    images = normal(3, 2, 8, 8, seed=1)
    assert bool(found.model(images).isfinite().all())
    again = load(found.save(tmp_path / "run"))
    assert torch.equal(again.model(images), found.model(images))


def test_slopes_that_are_no_numbers_count_as_zero() -> None:
    one = torch.ones(4, requires_grad=True)
    adam = Adam([one])
    one.grad = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
    adam.step(0.1)
    assert one.detach()[:3].tolist() == [1, 1, 1]
    assert one[3] < 1
    assert all(bool(moment.isfinite().all()) for moment in adam.moments().values())


@pytest.mark.parametrize("model", [large(), Masked()], ids=["weights of 1e38", "output of -inf"])
def test_a_network_that_gives_no_numbers_is_refused_before_the_work(model: nn.Module) -> None:
    prepared = prepare(model.eval(), normal(8, 2, 8, 8), recipe=recipe())
    with pytest.raises(ModelError, match=r"^Calibration image 0, .* in the float network's unit '"):
        prepared.check()


def test_an_image_that_gives_no_numbers_is_named() -> None:
    images = normal(40, 2, 8, 8).abs()
    images[29] = -images[29]
    with pytest.raises(
        DataError, match=r"^Calibration image 29 gives NaN or infinite values in the"
    ):
        quantize(Root().eval(), images, recipe=recipe(), progress=False)


def test_a_group_that_diverges_is_rounded_to_nearest_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The third loss is NaN."""
    taken = 0

    class Diverging(group_module.Step):
        def __call__(self, *given: object) -> Tensor:
            nonlocal taken
            taken += 1
            return super().__call__(*given) * (math.nan if taken == 3 else 1)  # type: ignore[arg-type]

    monkeypatch.setattr(group_module, "Step", Diverging)
    torch.manual_seed(0)
    found = quantize(Chain().eval(), normal(8, 2, 8, 8), recipe=recipe(), progress=False)
    first, *others = found.record.groups
    assert (first.diverged, first.accepted, first.steps) == (3, False, 3)
    assert math.isfinite(first.first_loss + first.last_loss + sum(loss for _, loss in first.curve))
    assert found.record.units[0].loss == found.record.units[0].nearest_loss
    assert all(one.diverged is None for one in others)
    assert load(found.save(tmp_path / "run")).record.groups == found.record.groups


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_none_even_to_nearest_stops_the_run(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mrecg.cache.activation_cache import ActivationCache

    def broken(self: object, units: object, bindings: object, keep: bool) -> dict[str, float]:
        return {name: value for unit in units for name in unit.outputs}  # type: ignore[attr-defined]

    monkeypatch.setattr(ActivationCache, "run_quantized", broken)
    with pytest.raises(ModelError, match=r"^The loss of the unit '0.* is (nan|inf), even rounded"):
        quantize(Chain().eval(), normal(8, 2, 8, 8), recipe=recipe(), progress=False)


def test_a_network_stage_that_diverges_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from mrecg.optimize.network_objective import NetworkObjective

    before = NetworkObjective.__call__
    monkeypatch.setattr(
        NetworkObjective, "__call__", lambda *given: before(*given) * torch.tensor(math.nan)
    )
    torch.manual_seed(0)
    found = quantize(Chain().eval(), normal(8, 2, 8, 8), recipe=recipe(2, 3), progress=False)
    network = found.record.network
    assert network is not None
    assert (network.accepted, network.diverged, network.curve) == (False, 1, ())
