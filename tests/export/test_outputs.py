"""Outputs of any shape are quantized, kept, written and verified, each by its name; files load, whatever the names."""

import dataclasses
import math
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mrecg
import toys
from mrecg.errors import CaptureError, ExportError, VerificationError
from mrecg.export.comparison import OutputComparison
from mrecg.graph.outputs import flatten, named_leaves, plain_outputs

onnx = pytest.importorskip("onnx")
IMAGES = toys.images(16)
Pair = namedtuple("Pair", "first second")
Make = Callable[[Tensor, Tensor], Any]


@dataclasses.dataclass
class Detections:
    boxes: Tensor
    scores: Tensor


class Answers(nn.Module):
    """Returns what it is told to make of a map and a table."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.make = make
        self.stem, self.head = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Any:
        made = self.head(self.stem(x).relu())
        return self.make(made, made.mean((2, 3)))


def quantize(make: Make) -> mrecg.QuantizedModel:
    torch.manual_seed(0)
    return mrecg.quantize(Answers(make), IMAGES, recipe=mrecg.preset("w8a8-rtn"))


OUTPUTS: dict[str, tuple[Make, list[str]]] = {
    "one": (lambda x, y: y, ["output"]),
    "dictionary": (
        lambda x, y: {"logits": y, "maps": [x, (y + 1, x)]},
        ["logits", "maps_0", "maps_1_0", "maps_1_1"],
    ),
    "ordered": (lambda x, y: OrderedDict(out=x, aux=y), ["out", "aux"]),
    "with None": (lambda x, y: (y, None, x), ["output_0", "output_2"]),
    "twice": (lambda x, y: (y, y), ["output_0", "output_1"]),
    "a mean": (lambda x, y: (y, y.mean()), ["output_0", "output_1"]),
    "booleans": (lambda x, y: (y, y > 0), ["output_0", "output_1"]),
    "integers": (lambda x, y: {"scores": y, "classes": x.argmax(1)}, ["scores", "classes"]),
    "numbers": (lambda x, y: (y, 3, 0.5, True), ["output_0"]),
    "named": (lambda x, y: Pair(y, [x]), ["first", "second_0"]),
    "dataclass": (lambda x, y: Detections(x, y), ["boxes", "scores"]),
    "mapping": (lambda x, y: UserDict(boxes=x), ["boxes"]),
    "tuple as key": (lambda x, y: {("disp", 0): y, ("disp", 1): x}, ["disp_0", "disp_1"]),
    "input's name": (lambda x, y: {"x": y}, ["x_output"]),
    "size of the batch": (lambda x, y: (y, y.shape[0]), ["output_0", "output_1"]),
    "a parameter": (lambda x, y: (y, torch.arange(3.0)), ["output_0", "output_1"]),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_of_every_shape_end_to_end(name: str, tmp_path: Path) -> None:
    make, names = OUTPUTS[name]
    quantized = quantize(make)
    wanted = flatten(quantized.model(IMAGES))
    for kept in (mrecg.load(quantized.save(tmp_path / "run")).model, program(quantized, tmp_path)):
        for left, right in zip(wanted, flatten(kept(IMAGES)), strict=True):
            assert torch.equal(left, right) if isinstance(left, Tensor) else left == right
    path = mrecg.export_onnx(quantized, tmp_path / "model.onnx")
    assert [value.name for value in onnx.load(path).graph.output] == names
    found = mrecg.verify_onnx(quantized, path, toys.images(130), repeats=0)  # two unequal batches
    assert [output.name for output in found.outputs] == names
    for output in found.outputs:
        assert output.difference is None or output.difference < 0.01
        assert output.relative_error is None or output.relative_error < 1e-5
        assert output.agreement is None or output.agreement > 99


def program(quantized: mrecg.QuantizedModel, folder: Path) -> Callable[[Tensor], Any]:
    return torch.export.load(mrecg.export_program(quantized, folder / "model.pt2")).module()


def test_each_output_is_reported_for_what_it_is(tmp_path: Path) -> None:
    quantized = quantize(
        lambda x, y: {"map": x, "table": y, "depth": x[:, :1], "flat": x.flatten(2), "sure": y > 0}
    )
    path = mrecg.export_onnx(quantized, tmp_path / "model.onnx")
    found = {o.name: o for o in mrecg.verify_onnx(quantized, path, IMAGES, repeats=0).outputs}
    classes = {name for name, output in found.items() if output.agreement is not None}
    assert classes == {
        "map",
        "table",
        "sure",
    }  # one channel is no class, and a reordered map has unknown axes
    assert {name for name, output in found.items() if output.difference is None} == {"sure"}


def test_what_a_comparison_finds() -> None:
    wanted, got = toys.normal(4, 3, 5, 5), toys.normal(4, 3, 5, 5, seed=1)
    found = OutputComparison(class_axis=1)
    for left, right in zip(wanted.split(3), got.split(3), strict=True):
        found.add(left, right)
    error = wanted.double() - got.double()
    ratio = float(error.norm() / wanted.double().norm())
    assert found.difference == pytest.approx(float(error.abs().max()))
    assert found.relative_error == pytest.approx(ratio)
    assert found.snr == pytest.approx(-20 * math.log10(ratio))
    assert found.agreement == pytest.approx(
        100 * float((wanted.argmax(1) == got.argmax(1)).float().mean())
    )
    assert OutputComparison().agreement is None
    with pytest.raises(ValueError, match=r"\(4, 3\) values in place of \(4,\)"):
        found.add(torch.zeros(4), torch.zeros(4, 3))


def test_infinite_values_are_equal_or_infinitely_apart() -> None:
    values = torch.tensor([[1.0, float("-inf"), float("nan")]])
    found = OutputComparison()
    found.add(values, values.clone())
    assert (found.difference, found.relative_error, found.snr) == (0, 0, math.inf)
    found.add(values, torch.tensor([[1.0, 2.0, float("nan")]]))
    assert found.difference == math.inf
    found.add(torch.zeros(1), torch.full((1,), float("nan")))
    assert math.isnan(found.difference)


def test_integers_that_differ_are_refused(tmp_path: Path) -> None:
    quantized = quantize(lambda x, y: x.argmax(1))
    path = mrecg.export_onnx(quantized, tmp_path / "model.onnx")
    model = onnx.load(path)
    (node,) = (one for one in model.graph.node if one.op_type == "ArgMax")
    node.op_type = "ArgMin"
    onnx.save(model, path)
    with pytest.raises(
        VerificationError, match=r"at its output: .* only .* % of the values are the same"
    ):
        mrecg.verify_onnx(quantized, path, IMAGES, repeats=0)


def test_other_names_of_outputs(tmp_path: Path) -> None:
    quantized, path = quantize(lambda x, y: (y, None, x)), tmp_path / "model.onnx"
    mrecg.export_onnx(quantized, path, output_names=["scores", "x"])
    found = mrecg.verify_onnx(quantized, path, IMAGES, repeats=0)
    assert [output.name for output in found.outputs] == ["scores", "x_output"]
    for names in (["scores"], ["a", "a"], ["a", ""], "scores"):
        with pytest.raises(ExportError, match="expected 2 different ones, for output_0, output_2"):
            mrecg.export_onnx(quantized, path, output_names=names)


@pytest.mark.parametrize("value", [{1.5: torch.zeros(1)}, {torch.zeros(1)}, object(), 1j])
def test_what_cannot_be_returned_is_named_before_the_work(value: Any) -> None:
    with pytest.raises(CaptureError, match=r"The model returns an? .*, expected tensors in tuples"):
        plain_outputs(value)
    with pytest.raises(CaptureError, match=r"The model returns an? .*, expected tensors in tuples"):
        quantize(lambda x, y: (y, value))


def test_leaves_have_different_names() -> None:
    assert list(named_leaves({"a": [1], "a_0": 2})) == ["a_0", "a_0_2"]


def test_a_program_that_torch_cannot_read_back_is_not_left(tmp_path: Path) -> None:
    """torch 2.13 writes strings and cannot read them."""
    with pytest.raises(ExportError, match="cannot read the program that it writes"):
        program(quantize(lambda x, y: {"y": y, "kind": "table"}), tmp_path)
    assert not list(tmp_path.iterdir())


class SharedHead(nn.Module):
    """A head for two sizes of maps, as in RetinaNet: its calls have biases of one name, and of one value where they are zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)
        self.head = nn.Conv2d(4, 3, 3, padding=1)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.stem(x).relu()
        return [self.head(fine), self.head(self.down(fine).relu())]


def test_a_shared_head_is_a_file_that_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    quantized = mrecg.quantize(SharedHead(), IMAGES, recipe=mrecg.preset("w8a8-rtn"))
    path = mrecg.export_onnx(quantized, tmp_path / "model.onnx")
    onnx.checker.check_model(path, full_check=True)
    assert len(mrecg.verify_onnx(quantized, path, IMAGES, repeats=0).outputs) == 2


def test_a_file_that_does_not_load_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mrecg.export.onnx import files

    quantized, path = quantize(lambda x, y: y), tmp_path / "model.onnx"
    path.write_text("the one before")
    monkeypatch.setattr(files, "make_names_unique", lambda graph: clash(graph))
    for runtime in ("onnxruntime", None):
        with pytest.raises(
            ExportError, match=r"model\.onnx is not written, because it could not be"
        ):
            mrecg.export_onnx(quantized, path, runtime=runtime)  # type: ignore[arg-type]
    assert path.read_text() == "the one before"
    assert list(tmp_path.iterdir()) == [path]


def clash(graph: Any) -> None:
    first, second, *_ = (node.outputs[0] for node in graph)
    second.name = first.name
