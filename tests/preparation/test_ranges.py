"""Ranges of tensors that a placement of the caller's own quantizes."""

import torch
from torch import Tensor, nn

import mrecg
import toys
from placements import Joined, Padded, SharedRange, TwoWidths
from quick import quick


def test_a_range_that_operands_share_reaches_all_of_them() -> None:
    recipe = mrecg.preset(
        "w8a8-rtn", {"weight.symmetric": True, "activation.ranges.method": "minmax"}
    )
    placement = SharedRange(recipe)
    model = Joined("a", "b").eval()
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
    placement = SharedRange(recipe)
    torch.manual_seed(0)
    model = ReadTwice().eval()
    quantized = mrecg.quantize(model, toys.images(32), recipe=recipe, quantizer=placement)
    assert all(unit.relative_loss < 1e-2 for unit in quantized.record.units)


def test_readers_of_one_tensor_with_two_grids() -> None:
    class TwoReaders(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x).relu()
            return torch.cat([self.b(x), self.c(x)], 1)

    recipe = mrecg.preset("w8a8-rtn")
    placement = TwoWidths(recipe)
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


def test_weights_that_only_a_foreign_placement_quantizes_are_learned_and_recorded() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3, padding="same"), nn.Conv1d(4, 3, 1)
    ).eval()
    recipe = quick("w4a4-brecq")
    placement = Padded(recipe)
    x = torch.randn(32, 2, 16)
    record = mrecg.quantize(model, x, recipe=recipe, quantizer=placement).record
    assert record.left_in_float == ()
    weights = {one.tensor: one for one in record.quantizers if one.kind == "weight"}
    assert weights["2.weight"].readers == ("2",)
    assert (weights["2.weight"].low, weights["2.weight"].high) == (0, 7)
