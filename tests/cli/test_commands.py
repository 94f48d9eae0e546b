"""The commands for a network: what they print, their exit codes, and nothing half-written after a mistake."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import mrecg
from benchmarks.accuracy.measure import float_network
from command_line import MODEL, QUICK, Finished, small_network
from mrecg.data import evaluation_batches
from pictures import imagenet


def test_quantize_then_evaluate(tmp_path: Path, mrecg_command: Callable[..., Finished]) -> None:
    run = tmp_path / "run"
    done = mrecg_command(
        *("quantize", *MODEL, *QUICK, "--preset", "w4a4-brecq", "--images", "16"),
        *("--evaluation-images", "100", "--output", str(run)),
    )
    assert done.returncode == 0, done.stderr
    assert "20/20 classifier" in done.stderr  # where there is no terminal, one line per group

    assert "float: top-1 " in done.stderr
    assert done.stdout.startswith("accuracy:   ")
    resolved = yaml.safe_load((run / "recipe.yaml").read_text())
    assert resolved["reconstruct"]["steps"] == 2
    images = ("--data", "demo", "--evaluation-images", "200")
    counted = mrecg_command("evaluate", str(run), *images, "--json")
    result = json.loads(counted.stdout)
    assert result["count"] == 200
    assert result["correct1"] > 100
    other_size = ("--data", "demo", "--size", "64")
    for command in (
        ("evaluate", str(run)),
        ("export", str(run), "--output", str(tmp_path / "x.onnx")),
    ):
        refused = mrecg_command(*command, *other_size)
        assert refused.returncode == 1
        assert "come as 1×28×28, normalized; leave out --size" in refused.stderr
    again = mrecg_command("quantize", *MODEL, *QUICK, "--output", str(run))
    assert again.returncode == 1
    assert "already holds a finished run" in again.stderr


def test_short_options_change_the_recipe(mrecg_command: Callable[..., Finished]) -> None:
    def resolved(*arguments: str) -> dict[str, Any]:
        done = mrecg_command("recipe", *arguments)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = yaml.safe_load(done.stdout)
        return found

    asked = resolved("w4a4-qdrop", "--bits", "w2a3", "--steps", "7", "--seed", "5")
    assert (asked["name"], asked["seed"]) == ("w2a3-qdrop", 5)
    assert (asked["weight"]["bits"], asked["activation"]["bits"]) == (2, 3)
    assert asked["reconstruct"]["steps"] == 7
    last = resolved("w4a4-qdrop", "--steps", "7", "--set", "reconstruct.steps=8")
    assert last["reconstruct"]["steps"] == 8  # the more particular option wins
    target = resolved("w8a8-rtn", "--backend", "onnxruntime", "--bits", "w4a8")
    assert target["weight"]["bits"] == 4


def test_the_run_of_every_unit_is_shown_if_asked(
    tmp_path: Path, mrecg_command: Callable[..., Finished]
) -> None:
    network = ("--network", small_network(tmp_path, channels=1), "--data", "demo")
    rtn = ("--preset", "w4a4-rtn", "--images", "16", "--evaluation-images", "0", "--verbose")
    done = mrecg_command("quantize", *network, *rtn, "--output", "run", "--tensorboard", "board")
    assert done.returncode == 0, done.stderr
    assert "plan: 2 units, joined: none [single blocks]" in done.stdout
    assert "jumps of the loss" in done.stdout
    assert "accuracy:   not measured" in done.stdout
    assert list((tmp_path / "board").iterdir())


def test_mean_and_std_normalize_images(
    tmp_path: Path, mrecg_command: Callable[..., Finished]
) -> None:
    root = imagenet(tmp_path / "root", classes=2, images=8)
    network = ("--network", small_network(tmp_path, channels=3), "--size", "32")
    rtn = ("--preset", "w4a4-rtn", "--images", "8", "--evaluation-images", "0")
    given = ("--data", f"imagenet:{root}", "--mean", "0.5", "--std", "0.1,0.2,0.3")
    done = mrecg_command("quantize", *network, *rtn, *given, "--output", "run")
    assert done.returncode == 0, done.stderr
    preprocessing = mrecg.load(tmp_path / "run").record.preprocessing
    assert preprocessing["mean"] == [0.5, 0.5, 0.5]
    assert preprocessing["std"] == [0.1, 0.2, 0.3]
    for wrong, message in [
        (("--mean", "half"), "takes numbers between commas"),
        (("--std", "nan"), "takes numbers between commas"),
        (("--std", "0"), "expected one value for each and positive values of std"),
        (("--mean", "1,2"), "expected one value for each"),
    ]:
        refused = mrecg_command("quantize", *network, *rtn, *given[:2], *wrong, "--output", "r")
        assert refused.returncode == 1
        assert message in refused.stderr


def test_nothing_is_quantized_on_images_that_nobody_named(
    mrecg_command: Callable[..., Finished],
) -> None:
    done = mrecg_command("quantize", "--network", "resnet18_small", "--output", "run")
    assert done.returncode == 1
    assert "error: No images are named; give --data, such as --data folder:images" in done.stderr


def test_the_estimate_comes_before_the_work(
    mrecg_command: Callable[..., Finished], tmp_path: Path
) -> None:
    rtn = ("--preset", "w4a4-rtn", "--images", "16", "--evaluation-images", "0")
    network = ("--network", small_network(tmp_path, channels=1), "--data", "demo")
    done = mrecg_command("quantize", *network, *rtn, "--output", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    (position,) = [index for index, line in enumerate(lines) if line.startswith("about ")]
    assert "of memory" in lines[position]
    assert "second" in lines[position]
    assert any(line.startswith("optimize: 1/2 ") for line in lines[position:])
    assert not any(line.startswith("optimize: ") for line in lines[:position])


def test_plan_can_be_saved_and_followed(
    tmp_path: Path, mrecg_command: Callable[..., Finished]
) -> None:
    plan_file = tmp_path / "plan.json"
    arguments = [*MODEL, *QUICK, "--images", "16"]
    found = mrecg_command(
        "plan", *arguments, "--set", "plan.join=stage", "--output", str(plan_file), "--json"
    )
    assert found.returncode == 0, found.stderr
    plan = json.loads(found.stdout)
    assert plan == json.loads(plan_file.read_text())
    again = mrecg_command("plan", *arguments, "--output", str(plan_file))
    assert (again.returncode, again.stdout) == (1, "")
    assert "plan.json already exists" in again.stderr
    assert plan == json.loads(plan_file.read_text())
    assert ["features.3", "features.4"] in plan["groups"]
    plan["groups"] = [[unit] for group in plan["groups"] for unit in group]
    plan_file.write_text(json.dumps(plan))
    done = mrecg_command(
        *("quantize", *arguments, "--plan", str(plan_file), "--output", str(tmp_path / "run")),
        *("--evaluation-images", "0", "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["groups"]) == 20
    assert json.loads(done.stdout)["accuracy"] == {}


def test_demo_in_short(
    mrecg_command: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = functools.partial(evaluation_batches, count=100)
    monkeypatch.setattr("mrecg.demo.comparison.evaluation_batches", some)
    monkeypatch.setattr("mrecg.demo.comparison._IMAGES", 32)
    # The network of another checkpoint has half as many units.
    other = functools.partial(float_network, "resnet18_small", None)
    monkeypatch.setattr("mrecg.demo.comparison.demo_network", other)
    done = mrecg_command("demo", "--steps", "2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == [
        "float",
        "round to nearest",
        "qdrop blocks",
        "+ joined (mrecg)",
        "+ whole network",
    ]
    assert rows["float"]["top1"] > 90
    joins = rows["+ joined (mrecg)"]["record"]["plan"]["joins"]
    assert [end["units"] for end in found["joining"]["ends"]] == [
        join["units"] for join in joins if join["kept"]
    ]
    gain = rows["qdrop blocks"]["divergence"] - rows["+ joined (mrecg)"]["divergence"]
    assert found["joining"]["gain"] == pytest.approx(gain, abs=1e-6)
    assert found["joining"]["standard_error"] > 0


def test_own_network(tmp_path: Path, mrecg_command: Callable[..., Finished]) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2704, 10))\n"
        "def broken():\n    raise ValueError('no')\n"
        "def number():\n    return 3\n"
        "def leaves():\n    raise SystemExit\n"
    )
    arguments = ["--data", "demo", "--images", "16", "--preset", "w4a4-rtn", "--set", "seed=3"]
    done = mrecg_command("quantize", "--network", "mine:net", *arguments, "--output", "r")
    assert done.returncode == 0, done.stderr
    preprocessing = mrecg.load(tmp_path / "r").record.preprocessing
    assert (preprocessing["channels"], preprocessing["crop"]) == (1, 28)
    found = mrecg_command("plan", "--network", "mine:net", *arguments)
    assert found.returncode == 0, found.stderr
    for name, message in [
        ("mine:broken", "ValueError: no"),
        ("mine:number", "gave a int"),
        ("mine:leaves", "SystemExit"),
        ("mine:absent", "cannot be built"),
        ("theirs:net", "cannot be built"),
    ]:
        failed = mrecg_command("plan", "--network", name, *arguments)
        assert failed.returncode == 1
        assert message in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "w2a4-qdrup"], "did you mean 'w2a4-qdrop'"),
        (["--set", "reconstruct.stepz=1"], "did you mean 'reconstruct.steps'"),
        (["--set", "seed"], "expected KEY=VALUE"),
        (["--set", "seed=[1"], "The value of 'seed' cannot be read"),
        (["--set", "weight.bits=1"], "expected 2 to 8 bits"),
        (["--backend", "nnie"], "holds weights of exactly 8 bits, got 4"),
        (["--set", "plan.join=explicit", "--set", "plan.groups=[[a, b]]"], "the unit 'a'"),
        (
            ["--size", "64"],
            "come as 1×28×28, normalized; leave out --size, --channels, --mean and --std",
        ),
        (["--channels", "2"], "1 channel (gray) or 3 (color), got --channels 2"),
        (["--images", "8"], "at least 32"),
        (["--network", "resnet"], "There is no network 'resnet'"),
        (["--weights", "nothing.safetensors"], "cannot be read"),
        (["--network", "resnet18_small"], "does not fit resnet18_small"),
        (["--data", "demos"], "There is no data source 'demos'; did you mean 'demo'?"),
        (["--data", "."], "but a path of that name; did you mean 'folder:.'?"),
        (["--bits", "4"], "The widths '4' cannot be read, expected such as w4a4"),
        (["--bits", "w1a4"], "expected 2 to 8 bits"),
        (["--mean", "0.5"], "leave out --size, --channels, --mean and --std"),
        (["--validation", "demos"], "did you mean 'demo'?"),
        (["--recipe", "nothing.yaml"], "cannot be read"),
        (["--plan", "nothing.json"], "cannot be read"),
        (["--output", "/dev/null/run"], "cannot be written"),
        (["--data", ""], "There is no data source ''"),
        (["--plan", "plan.json"], "unit 1 is 'a', the model's is 'features.0'"),
        (["--memory", "4 parsecs"], "cannot be read, expected a size such as 4GiB"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, mrecg_command: Callable[..., Finished]
) -> None:
    output, plan = tmp_path / "run", tmp_path / "plan.json"
    mrecg.Plan(groups=(("a",),)).write(plan)
    quick = ["--evaluation-images", "10", "--output", str(output)]
    done = mrecg_command("quantize", *MODEL, *quick, *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "float: top-1" not in done.stdout  # before anything long
    assert list(tmp_path.iterdir()) == [plan]


def test_evaluating_what_is_no_run(tmp_path: Path, mrecg_command: Callable[..., Finished]) -> None:
    done = mrecg_command("evaluate", str(tmp_path))
    assert done.returncode == 1
    assert "holds no run" in done.stderr
