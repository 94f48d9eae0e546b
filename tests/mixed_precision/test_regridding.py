"""A network at another width is the one that would be prepared at it."""

import pytest
import torch
from torch import Tensor, nn

import mrecg
import toys
from mrecg.mixed_precision.regridding import at_width
from mrecg.preparation.prepared_graph import prepare_graph


class Rooted(nn.Module):
    """What the second layer reads is read by a root, too, which is undefined below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(channels, 4, 3, padding=1) for channels in (2, 4))
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        return self.fc((self.b(y).relu() + y.sqrt()).mean((2, 3)))


@pytest.mark.parametrize(
    "settings",
    [{}, {"activation.symmetric": True, "activation.unsigned": True}],
)
def test_another_width_is_what_would_be_prepared(settings: dict[str, bool]) -> None:
    torch.manual_seed(0)
    model, x = Rooted().eval(), toys.images(4)

    def recipe(bits: int) -> mrecg.Recipe:
        widths = {"weight.bits": bits, "activation.bits": bits, "placement.first_last": "same"}
        return mrecg.preset("w4a4-rtn", widths | settings)

    found = at_width(prepare_graph(model, x, recipe(4), None), recipe(4), 2)
    wanted = prepare_graph(model, x, recipe(2), None)
    assert found.placed == wanted.placed
    assert found.activations == wanted.activations
    assert any(one.feeds_root for one in found.activations.values())  # type: ignore[attr-defined]
    for name, weight in wanted.weights.items():
        assert found.weights[name].grid == weight.grid
        for ours, theirs in zip(found.weights[name].calibrated, weight.calibrated, strict=True):
            assert torch.equal(ours, theirs)
