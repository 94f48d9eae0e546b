"""Calibration images in every form that is taken, and those that are refused."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import mrecg
import toys
from mrecg.errors import DataError
from quick import quick, run


class ByPosition(Dataset[Tensor]):
    """A Dataset that cannot be iterated over: it knows its length and takes any position."""

    def __init__(self, images: Tensor) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        return self._images[index % len(self)]


@pytest.mark.parametrize(
    "calibration",
    [
        lambda x: x,
        lambda x: x.split(10),
        lambda x: list(x),
        lambda x: [(batch, torch.zeros(len(batch))) for batch in x.split(16)],
        lambda x: DataLoader(TensorDataset(x), batch_size=5),
        lambda x: TensorDataset(x, torch.arange(len(x))),
        lambda x: ByPosition(x),
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
    for items in (
        pairs,
        DataLoader(pairs, 8),
        [(one, int(label)) for one, label in pairs],
        list(pairs),
    ):
        assert torch.equal(mrecg.quantize(model, items, recipe=recipe).model(x), expected)
    vectors = torch.randn(32, 12)
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    expected = run(model, recipe, vectors).model(vectors)
    found = mrecg.quantize(model, list(vectors), recipe=recipe)
    assert torch.equal(found.model(vectors), expected)
