"""What a caller in Python gets wrong: one sentence that names it, never a traceback from the middle."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mrecg
import toys
from mrecg.errors import (
    CaptureError,
    DataError,
    ExportError,
    ModelError,
    MrecgError,
    PlanError,
    RecipeError,
    RunError,
    StorageError,
    VerificationError,
)
from mrecg.pipeline import prepare
from mrecg.runs.folder import QuantizedModel

IMAGES = toys.images(32)
RTN = mrecg.preset("w4a4-rtn")


def chain() -> nn.Module:
    return toys.make("chain")


def quantized(toy: str = "chain") -> QuantizedModel:
    return mrecg.quantize(toys.make(toy), IMAGES, recipe=RTN)


class TwoImages(nn.Module):
    def forward(self, image: Tensor, flow: Tensor, scale: float = 1.0) -> Tensor:
        return image + scale * flow


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (TwoImages, "takes 2 inputs: image, flow, and the calibration set gives one; in Python"),
        (lambda: toys.Chain, "is the class Chain, expected an instance"),
        (lambda: "resnet18", "is the str, expected an instance"),
        (lambda: torch.jit.trace(chain(), IMAGES), r"give the module that it was made from"),
        (lambda: nn.DataParallel(chain()), r"give what it wraps, its \.module"),
        (lambda: torch.compile(chain()), r"before torch\.compile"),
        (lambda: chain().to("meta"), "on the device 'meta', without values"),
        (
            lambda: nn.Sequential(nn.LazyConv2d(4, 3)),
            r"'0\.weight' has no shape yet; run the model",
        ),
        (
            lambda: chain().half(),
            r"'0\.weight' is float16, expected float32; call model\.float\(\)",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_models(model: Callable[[], Any], message: str) -> None:
    for function in (mrecg.quantize, prepare):
        with pytest.raises(ModelError, match=message):
            function(model(), IMAGES, recipe=RTN)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(2, 3, 3)

    def forward(module, x: Tensor) -> Tensor:  # noqa: N805 (nobody has to call it self)
        return module.inner(x if x.sum() > 0 else -x)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Branches()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Outer(), "in block, at 'return module.inner.*': Could not guard on data-dependent"),
    ],
)
def test_models_that_cannot_be_exported(
    model: nn.Module, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CaptureError, match=message):
        mrecg.quantize(model, IMAGES, recipe=RTN)
    assert capfd.readouterr() == ("", "")  # torch's own dumps of the graph are no sentence


class Uncopied:
    def __deepcopy__(self, memo: object) -> object:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [
        (threading.Lock(), "TypeError: cannot pickle.*lock"),
        (Uncopied(), "NotImplementedError: NotImplementedError; remove"),
    ],
)
def test_models_that_cannot_be_copied(attribute: Any, reason: str) -> None:
    model = chain()
    model.held = attribute
    with pytest.raises(CaptureError, match=f"cannot be copied: {reason}"):
        mrecg.quantize(model, IMAGES, recipe=RTN)


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (None, "is a NoneType, expected a CalibrationImages or an Iterable; give images"),
        (3, "is an int"),
        ("folder", "item 0 is a str"),
        (IMAGES.numpy(), "item 0 is a ndarray"),
        (
            [{"image": IMAGES}],
            "needs the input .input., which the calibration set does not give; it gives image",
        ),
        (IMAGES.to_sparse(), "are sparse, expected dense"),
        (torch.tensor(3.0), r"shape \(\), expected a batch"),
    ],
)
def test_calibration_sets(calibration: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        mrecg.quantize(chain(), calibration, recipe=RTN)


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        ({"recipe": "w4a4-brecc"}, RecipeError, r"did you mean 'w4a4-brecq'\?"),
        ({"recipe": "mine.yaml"}, RecipeError, r"mine\.yaml cannot be read"),
        (
            {"recipe": None},
            RecipeError,
            "recipe is a NoneType, expected a Recipe or a str; make one",
        ),
        (
            {"progress": "yes"},
            MrecgError,
            "progress is a str, expected a bool; or give a function of one event",
        ),
        ({"plan": [["a"]]}, PlanError, "plan is a list, expected a Plan"),
        ({"quantizer": "x86"}, RecipeError, "quantizer is a str, expected a Quantizer"),
        ({"memory": "4 parsecs"}, StorageError, "'4 parsecs' cannot be read, expected a size such"),
        (
            {"memory": 4.5},
            StorageError,
            "memory budget is a float, expected an int or a str; give bytes",
        ),
        ({"memory": -1}, StorageError, "is -1 bytes, expected 0 or more"),
    ],
)
def test_arguments_of_quantize(
    argument: dict[str, Any], error: type[MrecgError], message: str
) -> None:
    with pytest.raises(error, match=message):
        mrecg.quantize(chain(), IMAGES, **({"recipe": RTN} | argument))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None,), "preset is a NoneType"),
        (("w4a4-rtn", ["seed=1"]), "is a list, expected a Mapping; give dotted keys"),
        (("w4a4-rtn", {3: 1}), "key 3 is an int"),
    ],
)
def test_presets(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        mrecg.preset(*arguments)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (None, "is a NoneType, expected an Iterable"),
        (IMAGES, "Batch 0 is a Tensor, expected a pair"),
        ([IMAGES], "Batch 0 is a Tensor, expected a pair"),
        (
            [(IMAGES.numpy(), np.zeros(32))],
            r"image part of batch 0 is a ndarray.*torch\.from_numpy",
        ),
        ([(IMAGES, np.zeros(32))], "label part of batch 0 is a ndarray"),
        ([(IMAGES, torch.zeros(32))], "labels of torch.float32, expected class numbers"),
        ([(IMAGES, torch.zeros(32, 5))], r"labels of shape \(32, 5\)"),
    ],
)
def test_what_is_evaluated_on(loader: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        mrecg.evaluate(chain(), loader)


def test_what_is_evaluated() -> None:
    with pytest.raises(ModelError, match=r"is a str, expected a Module or a QuantizedModel; give"):
        mrecg.evaluate("resnet18", [])  # type: ignore[call-overload]


def fails(outputs: Any, targets: Any) -> float:
    return outputs["boxes"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("top1", "metric is a str, expected a function .* or an object with update and compute"),
        (fails, "The metric fails for batch 0: .*; it is given what the model returns"),
        (lambda outputs, targets: "good", "gives a str for batch 0, expected a number"),
        (lambda outputs, targets: outputs, "gives 160 numbers for batch 0, expected one"),
        (lambda outputs, targets: {f"{targets[0]}": 1}, "expected the names of the batches before"),
    ],
)
def test_metrics(metric: Any, message: str) -> None:
    batches = [(IMAGES, torch.zeros(32)), (IMAGES, torch.ones(32))]
    with pytest.raises(DataError, match=message):
        mrecg.evaluate(chain(), batches, metric)


def test_what_is_compared_with_the_float_network() -> None:
    run = quantized()
    for arguments, error, message in [
        ((run, run, IMAGES), ModelError, "float model is a QuantizedModel, expected a Module"),
        ((chain(), run.model, IMAGES), ModelError, "give what mrecg.quantize or mrecg.load return"),
        ((chain(), run, [IMAGES]), DataError, "measured on is a list, expected a Tensor"),
        ((chain(), run, IMAGES[:0]), DataError, "no images to compare on"),
        ((chain(), run, IMAGES[:, :1]), DataError, "cannot take the images of part 0"),
        ((toys.make("two-outputs"), run, IMAGES), ModelError, "returns output_0, output_1, expe"),
        ((nn.Flatten(), run, IMAGES), ModelError, "'output' .* in place of .* that was quantized"),
    ]:
        with pytest.raises(error, match=message):
            mrecg.fidelity(*arguments)  # type: ignore[arg-type]


def test_paths_are_text_or_paths(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RTN.to_yaml(), encoding="utf-8")
    assert mrecg.read_recipe(str(path)) == mrecg.read_recipe(path) == RTN
    plan = mrecg.Plan(groups=(("a",),))
    plan.write(str(tmp_path / "plan.json"))
    assert mrecg.Plan.read(str(tmp_path / "plan.json")) == plan
    wrong: list[tuple[Callable[[Any], object], type[MrecgError]]] = [
        (mrecg.read_recipe, RecipeError),
        (mrecg.Plan.read, RunError),
        (mrecg.load, RunError),
        (quantized().save, RunError),
    ]
    for function, error in wrong:
        with pytest.raises(error, match="is a NoneType, expected a str or a Path"):
            function(None)


def test_exports(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    target = tmp_path / "model.onnx"
    run: Any = quantized()
    for arguments, message in [
        ((None, target), "What is exported is a NoneType"),
        ((run, target, "int9"), "no layout 'int9', expected 'int8' or 'packed'"),
        ((run, target, "int8", "tflite"), "no runtime 'tflite', expected None or 'onnxruntime'"),
        ((run, 5), "ONNX file is an int, expected a str or a Path"),
        ((run, target, "int8", None, 5), "names the outputs is an int, expected a str or an Iter"),
        ((run, target, "int8", None, [3]), "name of an output is an int, expected a str"),
    ]:
        with pytest.raises(ExportError, match=message):
            mrecg.export_onnx(*arguments)
    with pytest.raises(ExportError, match="program's file is an int, expected a str or a Path"):
        mrecg.export_program(run, 5)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    mrecg.export_onnx(run, target)
    for images in (IMAGES[:0], torch.zeros(4, 3, 8, 8)):
        with pytest.raises(DataError, match=r"expected at least one, of shape \(2, 8, 8\)"):
            mrecg.verify_onnx(run, target, images)
    for path, repeats, message in [
        (5, 0, "ONNX file is an int, expected a str or a Path"),
        (target, -1, "repeats is -1, expected 0 or more; give the number of timed runs"),
        (target, 1.5, "repeats is a float, expected an int"),
    ]:
        with pytest.raises(ExportError, match=message):
            mrecg.verify_onnx(run, path, IMAGES, repeats)  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match="is of another network than the run"):
        mrecg.verify_onnx(quantized("two-outputs"), target, IMAGES, repeats=0)
    assert mrecg.verify_onnx(run, target, IMAGES, repeats=1).images == 32
