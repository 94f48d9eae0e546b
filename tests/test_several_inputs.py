"""Networks of several inputs: named tensors go the whole way that one tensor goes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import mrecg
from mrecg.errors import DataError, ExportError, ModelError
from mrecg.export.pt2 import export_program
from mrecg.graph.inputs import NamedInputs
from mrecg.optimize.augmentation import mirror_randomly, mix_patches, mix_pixels
from quick import quick


class Flow(nn.Module):
    """An image and a flow in; a map and a table out. Its arguments have the names of Python's own functions, too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.flow = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(2, 4, 3, padding=1)
        self.body, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, input: Tensor, flow: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        y = (self.image(input).relu() + self.flow(flow).relu()) * scale
        y = self.body(y).relu()
        return {"logits": self.head(y.mean((2, 3))), "map": y}


class Pair(nn.Module):
    """One dictionary in, with two images that one body reads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1))
        self.head = nn.Linear(8, 3)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        left, right = (self.body(batch[name]).relu().mean((2, 3)) for name in ("left", "right"))
        return self.head(torch.cat([left, right], 1))


class Tokens(nn.Module):
    """An image, an index for each image, and some words."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.place, self.words = nn.Embedding(6, 4), nn.Embedding(9, 4)
        self.stem, self.mix = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor, place: Tensor, words: Tensor) -> Tensor:
        y = self.stem(image).relu() + self.place(place)[:, :, None, None]
        y = self.mix(y).relu().mean((2, 3))
        return self.head(torch.cat([y, self.words(words).mean(1)], 1))


def images(seed: int, channels: int = 3, count: int = 24) -> Tensor:
    return torch.randn(count, channels, 8, 8, generator=torch.Generator().manual_seed(seed))


def integers(seed: int, below: int, *shape: int) -> Tensor:
    return torch.randint(below, (24, *shape), generator=torch.Generator().manual_seed(seed))


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Tensor]]] = {
    "flow": (Flow, {"flow": images(1, 2), "input": images(0)}),  # not in the forward's order
    "pair": (Pair, {"left": images(0), "right": images(1)}),
    "tokens": (
        Tokens,
        {"image": images(0), "place": integers(1, 6), "words": integers(2, 9, 3)},
    ),
}


def part(inputs: dict[str, Tensor], first: int, last: int) -> dict[str, Tensor]:
    return {name: one[first:last] for name, one in inputs.items()}


def run(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
    return model(inputs) if isinstance(model, Pair) else model(**inputs)


@pytest.mark.parametrize("name", CASES)
def test_several_inputs_go_the_whole_way(name: str, tmp_path: Path) -> None:
    make, inputs = CASES[name]
    model = make().eval()
    batches = [(part(inputs, first, first + 8), torch.zeros(8)) for first in (0, 8, 16)]
    recipe = quick("w4a8-qdrop-mrecg", network__augment=["mirror", "cutmix"])
    quantized = mrecg.quantize(model, batches, recipe=recipe)

    found = mrecg.fidelity(model, quantized, inputs)
    assert all(
        one.relative_error is not None and one.relative_error < 0.2 for one in found.values()
    )
    read = {one.tensor for one in quantized.record.quantizers if one.kind == "activation"}
    floats = {n for n, one in inputs.items() if one.is_floating_point()}
    shapes = quantized.record.input_shapes
    assert shapes == {n: tuple(one.shape[1:]) for n, one in inputs.items()}
    assert len(read & {*shapes, "input_1"}) == len(floats)
    if name == "flow":
        assert list(shapes) == ["input", "flow"]

    again = mrecg.load(quantized.save(tmp_path / "run"))
    wanted = quantized.model(**inputs)
    for got in (again.model(**inputs), again.model(*(inputs[n] for n in shapes))):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    trained = again.trainable()
    for got in (trained(**inputs), trained(*(inputs[n] for n in shapes))):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)

    file = mrecg.export_onnx(again, tmp_path / "network.onnx")
    assert [one.name for one in onnx.load(file).graph.input] == list(shapes)
    assert mrecg.verify_onnx(again, file, part(inputs, 0, 5), repeats=1).largest_distance < 0.51

    if name == "flow":
        program = torch.export.load(export_program(again, tmp_path / "network.pt2")).module()
        assert torch.equal(program(*(inputs[n] for n in shapes))["map"], wanted["map"])
        with pytest.raises(
            ExportError, match="takes 2 inputs, and a dynamic size is tried for one"
        ):
            mrecg.export_onnx(again, file, dynamic_size=True)

    labels = (got["logits"] if isinstance(got, dict) else got).argmax(1)
    assert mrecg.evaluate(again, [(inputs, labels)]).top1 == 100
    assert mrecg.evaluate(model, batches, lambda outputs, _: len(outputs)) > 0


def flow(**inputs: Any) -> dict[str, Any]:
    return {"input": images(0), "flow": images(1, 2)} | inputs


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (
            {"input": images(0)},
            "forward needs the input 'flow', which the calibration set does not",
        ),
        (
            flow(glow=images(0)),
            "has no input 'glow', which the calibration set gives; its inputs: inp",
        ),
        (
            flow(flow=images(1, 2, 9)),
            "in the calibration set have batches of different sizes: input 24",
        ),
        ([flow(), images(0)], "item 1 has a tensor, expected the inputs input, flow as the first"),
        (
            [flow(), flow(flow=images(1, 3))],
            r"item 1 has the input 'flow' of shape \(3, 8, 8\), expec",
        ),
        (
            [flow(), flow(flow=images(1, 2).long())],
            "item 1 has the input 'flow' of int64, expected float32 as the first",
        ),
        (
            flow(flow=[1.0]),
            "'flow' in the calibration set is a list, expected a tensor with the batch",
        ),
        (
            flow(flow=torch.tensor(1.0)),
            "'flow' in the calibration set is a single number, expected",
        ),
        (
            flow(flow=images(1, 2).double()),
            "'flow' in calibration item 0 are float64, expected float32 or",
        ),
        (
            flow(flow=images(1, 2) / 0),
            "in calibration item 0 holds NaN or infinite values in 'flow'",
        ),
        ([{}], "is no input in calibration item 0"),
    ],
)
def test_wrong_dictionaries_are_refused(calibration: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        mrecg.prepare(Flow(), calibration)


class _Mapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.conv(batch["image"])


class _Misnamed(_Mapped):
    def forward(self, batch):  # type: ignore[no-untyped-def]
        return self.conv(batch["image"])


def test_a_dictionary_of_one_is_taken_where_the_argument_is_said_to_be_one() -> None:
    given = {"image": images(0)}
    assert mrecg.prepare(_Mapped(), given).graph.chain.inputs == ("image",)
    with pytest.raises(DataError, match=r"needs the input 'batch'.* it gives image"):
        mrecg.prepare(_Misnamed(), given)


def test_one_tensor_is_not_two_inputs() -> None:
    with pytest.raises(
        ModelError, match="takes 2 inputs: input, flow, and the calibration set gives"
    ):
        mrecg.prepare(Flow(), images(0))
    quantized = mrecg.quantize(Flow(), flow(), recipe="w4a4-rtn")
    with pytest.raises(ModelError, match="takes 2 inputs: input, flow, and batch 0 gives one"):
        mrecg.evaluate(quantized, [(images(0), torch.zeros(24).long())])


def test_a_dataset_gives_the_inputs_of_one_image() -> None:
    """Numbers among them are indices."""

    class Items(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, index: int) -> Any:
            image, words = images(0)[index], integers(2, 9, 3)[index]
            return {"image": image, "place": index % 6, "words": words}, 3

    items = mrecg.prepare(Tokens(), Items()).images
    batches = mrecg.prepare(Tokens(), torch.utils.data.DataLoader(Items(), 8)).images
    for name, one in items.tensors.items():  # type: ignore[union-attr]
        assert torch.equal(one, batches.tensors[name])  # type: ignore[union-attr]


def test_a_users_view_has_the_names_of_the_inputs() -> None:
    recipe = quick("w4a8-qdrop", network__steps=2)
    seen: set[str] = set()

    def view(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.update(batch)
        return {"flow": batch["flow"], "input": -batch["input"]}

    mrecg.quantize(Flow(), flow(), recipe=recipe, augment=view)
    assert seen == {"input", "flow"}
    with pytest.raises(DataError, match="returned Tensor, expected a dictionary of input, flow"):
        mrecg.quantize(Flow(), flow(), recipe=recipe, augment=lambda batch: batch["flow"])


def test_views_are_the_same_in_all_inputs() -> None:
    """Where one of the inputs is no image of that size, there are none."""
    random = torch.Generator().manual_seed(0)
    inputs = NamedInputs({"a": images(0), "b": images(0, 3)})
    for view in (mirror_randomly, mix_patches, mix_pixels):
        made = view(inputs, random)
        assert torch.equal(made.tensors["a"], made.tensors["b"])
        others = NamedInputs({"a": images(0), "b": integers(0, 9, 3)})
        assert view(others, random) is others
