"""A file that computes something else is found out, and the first layer where it parts is named."""

import copy
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from rich.console import Console

import mrecg
import toys
from command_line import Finished, small_network
from mrecg.cli.show import show_verification
from mrecg.errors import DataError, ExportError, VerificationError
from mrecg.export.findings import RuntimeRecord, Verification
from mrecg.export.onnx.verification import ideal_bytes
from mrecg.runs.folder import QuantizedModel


@pytest.fixture(scope="module")
def quantized() -> QuantizedModel:
    recipe = mrecg.preset("w4a4-rtn")
    return mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe)


@pytest.fixture(scope="module")
def exported(quantized: QuantizedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mrecg.export_onnx(quantized, tmp_path_factory.mktemp("exported") / "model.onnx")


@pytest.fixture
def path(exported: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copy(exported, tmp_path))


def change(path: Path, name: str, factor: float, first: int | None = None) -> None:
    """Multiply one constant of a file, or the `first` of its numbers only."""
    model = onnx.load(path)
    tensor = next(one for one in model.graph.initializer if one.name == name)
    array = numpy_helper.to_array(tensor)
    changed = array.astype(float)
    changed.flat[:first] *= factor
    tensor.CopyFrom(numpy_helper.from_array(changed.astype(array.dtype), name))
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("constant", "layer"),
    [
        ("stem.weight.scale", "stem"),
        ("stem.bias", "stem"),
        ("stage.one.a.weight.scale", "stage.one.a"),
        ("stage.one.b.bias", "stage.one"),
        ("stage.two.project.weight.scale", "stage.two"),
        ("stage.two.project.bias", "stage.two"),
        ("fc.weight.scale", "its output"),
        ("fc.bias", "its output"),
    ],
)
@pytest.mark.parametrize(("factor", "first"), [(4.0, None), (1.03, 1)])
def test_the_first_layer_that_parts_is_named(
    constant: str,
    layer: str,
    factor: float,
    first: int | None,
    quantized: QuantizedModel,
    path: Path,
) -> None:
    """A constant that is quite another, and a single channel's that is off by 3 %."""
    change(path, constant, factor, first)
    with pytest.raises(VerificationError, match=f"parts from the simulation at '?{layer}'?:"):
        mrecg.verify_onnx(quantized, path, toys.images(50), repeats=0)


def test_every_output_is_compared(tmp_path: Path) -> None:
    recipe = mrecg.preset("w4a4-rtn")
    two = mrecg.quantize(toys.make("two-outputs"), toys.images(32), recipe=recipe)
    path = mrecg.export_onnx(two, tmp_path / "model.onnx")
    mrecg.verify_onnx(two, path, toys.images(50), repeats=0)
    change(path, "auxiliary.bias", 1.03, first=1)
    with pytest.raises(
        VerificationError, match="parts from the simulation at its output 'output_1':"
    ):
        mrecg.verify_onnx(two, path, toys.images(50), repeats=0)


def test_what_is_no_number_is_a_mistake(quantized: QuantizedModel, path: Path) -> None:
    broken = copy.deepcopy(quantized)
    broken.program.state_dict["stage.one.a.bias_rounded"].fill_(torch.nan)
    with pytest.raises(VerificationError, match=r"at 'stage\.one\.a': .* a code is nan scales"):
        mrecg.verify_onnx(broken, path, toys.images(4), repeats=0)


def test_what_is_found(quantized: QuantizedModel, path: Path) -> None:
    result = mrecg.verify_onnx(quantized, path, toys.images(150), repeats=4)
    assert result.images == 150
    assert result.codes == 150 * sum(
        per_image(quantized, name) for name in result_quantizers(quantized)
    )
    assert result.different_codes <= result.codes * 1e-4
    assert result.file_bytes == path.stat().st_size
    layers = {layer.name for unit in quantized.record.units for layer in unit.layers}
    assert set(result.integer_layers) | set(result.float_layers) == layers
    first = result.runtimes[0]
    assert first.name.startswith("ONNX Runtime")
    assert first.speed is not None
    assert first.speed > 0
    assert Verification.model_validate_json(result.to_json()) == result
    with pytest.raises(ValueError, match="frozen"):
        result.images = 3


def test_what_a_terminal_shows(quantized: QuantizedModel, path: Path) -> None:
    console = Console(record=True, width=500, file=io.StringIO())
    result = mrecg.verify_onnx(quantized, path, toys.images(10), repeats=2)
    failed = RuntimeRecord(name="Another 1.0", problem="cannot load it")
    both = result.model_copy(update={"runtimes": (result.runtimes[0], failed)})
    show_verification(console, both, path)
    text = console.export_text()
    assert "computes the simulation: on 10 images top-1 agrees for" in text
    assert "times as fast" in text
    assert "Another 1.0: cannot load it" in text


def result_quantizers(quantized: QuantizedModel) -> list[str]:
    operator = torch.ops.quantized_decomposed.quantize_per_tensor.default
    return [node.name for node in quantized.program.graph.nodes if node.target is operator]


def per_image(quantized: QuantizedModel, name: str) -> int:
    node = next(node for node in quantized.program.graph.nodes if node.name == name)
    return int(node.meta["val"][0].numel())


def test_images_as_training_leaves_them(quantized: QuantizedModel, path: Path) -> None:
    """With a gradient, or a negation that torch has put off."""
    images = toys.images(4)
    expected = mrecg.verify_onnx(quantized, path, images, repeats=0)
    negated = torch.complex(images, -images).conj().imag
    assert negated.is_neg()
    for same in (images.clone().requires_grad_(), negated):
        assert mrecg.verify_onnx(quantized, path, same, repeats=0) == expected


def test_ideal_size_is_counted_in_bits(quantized: QuantizedModel) -> None:
    bits = 0
    for name, tensor in quantized.program.state_dict.items():
        eight = name.startswith(("stem", "fc"))
        coded = name.endswith(("codes", "zero_point"))
        bits += tensor.numel() * ((8 if eight else 4) if coded else 32)
    assert ideal_bytes(quantized) == pytest.approx(bits / 8, abs=len(quantized.program.state_dict))


def test_what_cannot_be_verified(quantized: QuantizedModel, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"ONNX Runtime .* cannot load .*broken\.onnx"):
        mrecg.verify_onnx(quantized, broken, toys.images(4))
    with pytest.raises(DataError, match="float64"):
        mrecg.verify_onnx(quantized, broken, toys.images(4).double())


def test_export_and_verify_on_the_command_line(
    tmp_path: Path, mrecg_command: Callable[..., Finished]
) -> None:
    run, file = tmp_path / "run", tmp_path / "model.onnx"
    network = ["--network", small_network(tmp_path, channels=1), "--data", "demo"]
    short = ["--images", "16", "--evaluation-images", "0"]
    quantize = ["quantize", *network, *short, "--preset", "w4a4-rtn", "--output", str(run)]
    assert mrecg_command(*quantize).returncode == 0
    shown = ["--data", "demo", "--evaluation-images", "20"]
    done = mrecg_command("export", str(run), "--output", str(file), *shown, "--json")
    assert done.returncode == 0, done.stderr
    result = Verification.model_validate_json(done.stdout)
    assert result.images == 20
    assert result.top1_agreement_ties_apart == 100
    assert result == Verification.read(run / "model.onnx.verification.json")
    assert mrecg.load(run).model is not None  # what was added does not disturb the run
    change(file, "4.weight.scale", 3)
    parted = mrecg_command("verify", str(run), str(file), *shown)
    assert parted.returncode == 1
    assert "parts from the simulation at its output" in parted.stderr
    for name, more in [("model.pt2", []), ("unverified.onnx", ["--no-verify"])]:
        written = tmp_path / name
        exported = mrecg_command("export", str(run), "--output", str(written), *more, "--json")
        assert exported.returncode == 0, exported.stderr
        said = json.loads(exported.stdout)
        assert (said["file"], said["verified"]) == (str(written), False)
        assert said["reason"]
        assert written.is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "nothing", "--output", "m.onnx", "--data", "demo"], "holds no run"),
        (["verify", "nothing", "m.onnx", "--data", "demo"], "holds no run"),
    ],
)
def test_mistakes_are_sentences(
    arguments: list[str], message: str, mrecg_command: Callable[..., Finished]
) -> None:
    done = mrecg_command(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("error: ") == 1
