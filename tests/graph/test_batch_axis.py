"""No layer is lost behind a reshaping of the batch: what can be told apart by image is compared, all else is refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import mrecg
import toys
from mrecg.errors import CaptureError
from mrecg.graph.capture import capture_graph
from mrecg.graph.extract import Insertions
from mrecg.graph.insert import insert_quantizers
from mrecg.graph.recipe_placement import RecipePlacement
from mrecg.graph.units import Chain, cut_units

Forward = Callable[["Heads", Tensor], Tensor]


class Heads(nn.Module):
    """Two linear layers and a convolution behind another, in whatever order of axes."""

    def __init__(self, behind: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.frame = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3)
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 5)
        self.behind = behind

    def head(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self, self.stem(x).relu())


def time_first(heads: Heads, x: Tensor) -> Tensor:
    """Return (T, N, classes), as CTC takes it."""
    return heads.head(x.mean(2).permute(2, 0, 1)).log_softmax(2)


def merged_times(heads: Heads, x: Tensor) -> Tensor:
    """Return (T, N, classes) from rows of all times of all images, as CRNN does."""
    times, count, features = (steps := x.mean(2).permute(2, 0, 1)).shape
    return heads.head(steps.reshape(times * count, features)).view(times, count, -1)


def positions(heads: Heads, x: Tensor) -> Tensor:
    """Return a row for each position of each image."""
    return heads.head(x.permute(0, 2, 3, 1).reshape(-1, 4))


def frames(heads: Heads, x: Tensor) -> Tensor:
    """Return a map for each of two frames of each image."""
    return heads.frame(torch.stack([x, -x], 1).flatten(0, 1))


def of_float(model: nn.Module) -> tuple[Chain, Callable[[Tensor], Tensor]]:
    """Return a model's chain, and what computes its compared value in float."""
    recipe = mrecg.preset("w4a4-brecq")
    placement = RecipePlacement(recipe.placement, recipe.weight, recipe.activation)
    graph, quantizers = insert_quantizers(capture_graph(model, toys.images(2)), placement)
    chain = cut_units(graph, Insertions({q.name: q for q in quantizers}, (), {}), model, "block")

    def run(x: Tensor) -> Tensor:
        values = chain.named(x)
        for unit in chain.units:
            made = unit.float_graph(*[values[name] for name in unit.inputs])
            values.update(zip(unit.outputs, made, strict=False))
        (name,) = chain.outputs
        return values[name]

    return chain, run


@pytest.mark.parametrize(
    ("behind", "size", "by_image"),
    [
        (time_first, (8, 5), lambda made: made.transpose(0, 1)),
        (merged_times, (8, 5), lambda made: made.transpose(0, 1)),
        (positions, (64, 5), lambda made: made.unflatten(0, (-1, 64))),
        (lambda heads, x: heads.head(x.view(-1, 4)), (64, 5), lambda made: made.unflatten(0, (-1, 64))),
        (frames, (3, 6, 6, 2), lambda made: made.unflatten(0, (-1, 2)).movedim(1, -1)),
    ],
)  # fmt: skip
def test_the_last_layers_are_compared_image_by_image(
    behind: Forward, size: tuple[int, ...], by_image: Callable[[Tensor], Tensor]
) -> None:
    model, x = Heads(behind).eval(), toys.images(5)
    chain, run = of_float(model)
    compared = run(x)
    assert compared.shape[1:] == size == chain.sizes[chain.outputs[0]]
    normalized = compared.log_softmax(2) if behind is time_first else compared
    torch.testing.assert_close(normalized, by_image(model(x)))
    torch.testing.assert_close(run(x[3:4]), compared[3:4])
    assert chain.channels[chain.outputs[0]] == (3 if behind is frames else 5)


def test_layers_behind_the_last_stored_value_learn() -> None:
    codes = []
    for steps in (0, 20):
        recipe = mrecg.preset(
            "w2a8-brecq",
            {"reconstruct.steps": steps, "network.steps": 0, "reconstruct.batch_size": 8},
        )
        state = mrecg.quantize(Heads(merged_times), toys.images(), recipe=recipe).program.state_dict
        codes.append({name: state[f"{name}.quantized_weight.codes"] for name in ("first", "last")})
    before, after = codes
    assert not any(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "behind",
    [
        lambda heads, x: heads.head(x.mean((0, 2, 3))),
        lambda heads, x: heads.head((z := x.mean((2, 3)))[z[:, 0] > 0]),
    ],
)
def test_a_layer_that_nothing_can_be_compared_behind_is_refused(behind: Forward) -> None:
    with pytest.raises(CaptureError, match=r"'last' gives .* cannot be told apart.*batch first"):
        of_float(Heads(behind).eval())


@pytest.mark.parametrize(
    ("mixed", "message"),
    [
        (lambda x: x.view(-1, 2, 4).mean(1), r"combines images .* aten.view .* of \(N//2\)×"),
        (lambda x: torch.sub(*x.chunk(2)), "or combines images"),
        (lambda x: x[::2], "or combines images"),
        (lambda x: x.view(2, 4), "write x.shape"),
        (lambda x: x[:4], "a fixed number of a batch's images"),
    ],
)
def test_images_that_are_combined_are_refused(
    mixed: Callable[[Tensor], Tensor], message: str
) -> None:
    model = Heads(lambda heads, x: heads.head(mixed(x.mean((2, 3))))).eval()
    with pytest.raises(CaptureError, match=message):
        capture_graph(model, toys.images(2))
