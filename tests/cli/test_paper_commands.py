"""The command line for those who come from the paper: its files, its plans, its targets."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from command_line import Finished
from configuration_files import settings
from mrecg.paper.networks import build
from pictures import imagenet


@pytest.mark.usefixtures("thin_resnet18")
def test_a_configuration_file_is_quantized(
    tmp_path: Path, mrecg_command: Callable[..., Finished]
) -> None:
    """The authors' file as it is: network, checkpoint, data and seed come from it."""
    imagenet(tmp_path / "data", classes=4, images=4)
    torch.save(build("resnet18").state_dict(), tmp_path / "resnet18.pth.tar")
    content = settings()
    content["model"]["path"] = str(tmp_path / "resnet18.pth.tar")
    content["data"] |= {"path": str(tmp_path / "data"), "batch_size": 4, "input_size": 32}
    content["quantize"]["cali_batchsize"] = 2
    content["quantize"]["reconstruction"]["max_count"] = 1
    (tmp_path / "authors.yaml").write_text(yaml.safe_dump(content))
    done = mrecg_command(
        *("quantize", "--config", str(tmp_path / "authors.yaml"), "--workers", "0"),
        *("--output", str(tmp_path / "run"), "--json"),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["images"] == 8
    assert record["input_shape"] == [3, 32, 32]
    assert record["preprocessing"]["resize"] == 256
    assert [len(group) for group in record["plan"]["groups"]] == [1, 1, 2, 2, 1, 1, 1, 1]
    assert "ignored" in done.stderr
    assert "float" in done.stderr  # its accuracy, before anything else
    counted = mrecg_command(
        "evaluate", str(tmp_path / "run"), "--data", f"imagenet:{tmp_path / 'data'}", "--json"
    )
    assert json.loads(counted.stdout)["count"] == 16


def test_a_configuration_file_is_resolved(
    tmp_path: Path, mrecg_command: Callable[..., Finished]
) -> None:
    (tmp_path / "authors.yaml").write_text(yaml.safe_dump(settings("mobilenet_v2")))
    done = mrecg_command("recipe", str(tmp_path / "authors.yaml"))
    assert done.returncode == 0, done.stderr
    resolved = yaml.safe_load(done.stdout)
    assert resolved["plan"]["scheme"] == [1, 1, 2, 1, 2, 1, 3, 3, 1, 2, 1]
    assert "reconstruct.penalty = 0.1" in " ".join(done.stderr.split())
    (tmp_path / "ours.yaml").write_text(done.stdout)
    again = mrecg_command("recipe", str(tmp_path / "ours.yaml"), "--set", "seed=3")
    assert yaml.safe_load(again.stdout) == resolved | {"seed": 3}
    target = mrecg_command("recipe", "w4a8-qdrop", "--backend", "openvino")
    assert yaml.safe_load(target.stdout)["placement"]["backend"] == "openvino"


def test_a_schedule_belongs_to_a_preset(
    tmp_path: Path, mrecg_command: Callable[..., Finished]
) -> None:
    authors, ours = tmp_path / "authors.yaml", tmp_path / "ours.yaml"
    authors.write_text(yaml.safe_dump(settings()))
    paper = mrecg_command("recipe", "w2a4-qdrop", "--schedule", "paper")
    resolved = yaml.safe_load(paper.stdout)
    assert resolved["reconstruct"]["steps"] == 20000
    assert resolved["network"]["steps"] == 0
    ours.write_text(paper.stdout)
    theirs = mrecg_command("recipe", str(authors), "--schedule", "paper")
    changed = {"name", "plan"}
    assert {k: v for k, v in yaml.safe_load(theirs.stdout).items() if k not in changed} == {
        k: v for k, v in resolved.items() if k not in changed
    }
    for arguments, message in [
        (["recipe", str(authors)], "has the paper's schedule"),
        (["plan", "--config", str(authors), "--network", "resnet18"], "has the paper's schedule"),
        (["plan", "--recipe", str(ours), "--network", "resnet18"], "has a schedule of its own"),
    ]:
        refused = mrecg_command(*arguments, "--schedule", "fast")
        assert refused.returncode == 1
        assert message in " ".join(refused.stderr.split())
    lost = mrecg_command("plan", "--config", str(ours), "--network", "resnet18")
    assert lost.returncode == 1
    assert "give it with --recipe" in " ".join(lost.stderr.split())


@pytest.mark.parametrize(
    ("network", "joined"), [("resnet18", 2), ("mobilenetv2_050", 9), ("regnetx_600m", 4)]
)
def test_a_plan_needs_neither_weights_nor_images(
    network: str, joined: int, mrecg_command: Callable[..., Finished]
) -> None:
    short = ("--size", "32", "--set", "weight.ranges.method=minmax")
    done = mrecg_command("plan", "--network", network, "--metric", "capacity", *short)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("capture: ")  # and no warning about random weights
    assert done.stderr.count("\n") == 1
    lines = [line for line in done.stdout.splitlines() if line.startswith("│")]
    assert len(lines) == {"resnet18": 10, "mobilenetv2_050": 20, "regnetx_600m": 18}[network]
    assert sum(line.split("│")[-2].strip() == "yes" for line in lines) == joined
    assert any(line.split("│")[-3].strip() == "yes" for line in lines)


BAD = {
    "tab": ("quantize:\n\tbackend: Academic\n", "cannot be read"),
    "bomb": ("a: &a [x]\nquantize: [*a, *a]\n", "alias"),
    "object": ("quantize: !!python/object/apply:os.system [ls]\n", "cannot be read"),
    "scheme": (yaml.safe_dump({"quantize": {"reconstruction": {"scheme": "f()"}}}), "scheme"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_configuration_is_one_sentence(
    name: str, tmp_path: Path, mrecg_command: Callable[..., Finished]
) -> None:
    text, message = BAD[name]
    (tmp_path / "bad.yaml").write_text(text)
    for command in (
        ["recipe", str(tmp_path / "bad.yaml")],
        ["quantize", "--config", str(tmp_path / "bad.yaml"), "--output", str(tmp_path / "run")],
    ):
        done = mrecg_command(*command)
        assert done.returncode == 1
        assert message in done.stderr
        assert done.stderr.count("error: ") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--metric", "capacity"], "No network is named"),
        (["plan", "--network", "resnet18", "--preset", "w4a4-rtn", "--recipe", "x"], "one recipe"),
        (
            ["recipe", "w4a4-brecq", "--set", "plan.scheme=[1, 2]"],
            "scheme is read only where join = scheme, got join = none",
        ),
        (
            ["recipe", "w4a4-brecq-mrecg", "--set", "plan.groups=[[a, b]]"],
            "groups is read only where join = explicit, got join = loss",
        ),
        (["recipe", "nothing.yaml"], "cannot be read"),
        (
            [
                "reproduce",
                "--output",
                "o",
                "--data",
                "demo",
                "--checkpoints",
                "c",
                "--schedule",
                "slow",
            ],
            "no schedule 'slow'",
        ),
        (["recipe", "w4a4-brecc"], "did you mean 'w4a4-brecq'"),
        (["recipe", "w4a4-brecq", "--backend", "vits"], "did you mean 'vitis'"),
        (
            ["plan", "--network", "resnet18_small", "--set", "plan.join=scheme"],
            "join = scheme needs scheme, which is empty",
        ),
        *(
            (
                [
                    *("plan", "--network", "resnet18_small", "--set", "plan.join=explicit"),
                    *("--set", f"plan.groups={groups}"),
                ],
                message,
            )
            for groups, message in (
                ("[[layer1.0, layer1.1], [layer1.1, layer2.0]]", "'layer1.1' more than once"),
                ("[[layer1.0], []]", "group 2 names no unit"),
            )
        ),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], message: str, mrecg_command: Callable[..., Finished]
) -> None:
    done = mrecg_command(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("error: ") == 1


def test_an_interrupted_table_says_how_to_go_on(
    tmp_path: Path, mrecg_command: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mrecg.paper.reproduction.reproduce", interrupt)
    where = ("--data", "demo", "--checkpoints", "models", "--output", "table")
    done = mrecg_command("reproduce", *where)
    assert done.returncode == 130
    assert done.stderr.endswith("groups are kept; give the command again to go on\n")
