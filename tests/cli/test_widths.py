"""Widths on the command line: measured, chosen within a budget, written, edited, followed."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mrecg
from command_line import Finished, small_network
from mrecg import quantization
from mrecg.data import EvaluationBatches
from mrecg.mixed_precision import within_budget
from mrecg.records.sensitivity import Sensitivity
from mrecg.runs.folder import QuantizedModel
from mrecg.runs.places import UNFINISHED

SETTINGS = ("placement.first_last=same", "reconstruct.answer=logits")
RTN = (
    "--preset",
    "w4a8-rtn",
    "--images",
    "16",
    *(part for one in SETTINGS for part in ("--set", one)),
)


def network(folder: Path) -> tuple[str, ...]:
    return ("--network", small_network(folder, channels=1), "--data", "demo")


def test_widths_are_measured_chosen_edited_and_followed(
    tmp_path: Path, mrecg_command: Callable[..., Finished]
) -> None:
    given = (*network(tmp_path), *RTN)
    files = ("--write-widths", "widths.yaml", "--output", "sensitivity.json")
    done = mrecg_command(
        "sensitivity", *given, "--weight-bits", "2,8", "--budget", "6.5bits", *files
    )
    assert done.returncode == 0, done.stderr
    assert "harm: KL divergence from float on 16 images, rounded to nearest" in done.stdout
    assert "8 bits everywhere" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert len(Sensitivity.read(tmp_path / "sensitivity.json").units) == 2

    file = tmp_path / "widths.yaml"
    file.write_text(file.read_text().replace("weight_bits: 2", "weight_bits: 3"))
    run = ("--evaluation-images", "0", "--output", "run")
    followed = mrecg_command("quantize", *given, "--widths", "widths.yaml", *run)
    assert followed.returncode == 0, followed.stderr
    units = mrecg.load(tmp_path / "run").record.units
    assert sorted(layer.bits for unit in units for layer in unit.layers) == [3, 8]


def test_a_budget_is_kept_in_one_command_and_shown_on_the_page(
    tmp_path: Path, mrecg_command: Callable[..., Finished]
) -> None:
    """One of bit operations chooses widths of activations, too; measured alone, the same ones are."""
    given = (*network(tmp_path), *RTN, "--budget", "50kBOPs")
    done = mrecg_command("quantize", *given, "--evaluation-images", "0", "--output", "run")
    assert done.returncode == 0, done.stderr
    assert "chosen within 50kBOPs" in done.stdout
    chosen = mrecg.load(tmp_path / "run").record.bits
    assert chosen is not None
    assert chosen.cost.bops <= 50_000
    assert {one.kind for one in chosen.widths} == {"weight", "activation"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Which layers need bits?" in page
    assert "The least harm at each cost" in page
    measured = mrecg_command("sensitivity", *given)
    assert "Harm of the activations of each layer alone" in measured.stdout


def test_what_cannot_go_on_is_refused_before_anything_is_measured(
    tmp_path: Path, mrecg_command: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(within_budget, "sensitivity", None)
    monkeypatch.setattr(EvaluationBatches, "__iter__", None)
    (tmp_path / "plan.json").write_text('{"groups": [["nowhere"]]}')
    given = ("quantize", *network(tmp_path), *RTN, "--output", "run")
    target = ("--max-drop", "1")
    steps = ("--preset", "w4a8-qdrop", "--set", "reconstruct.batch_size=17")
    for arguments, said in [
        (("--budget", "4bits", "--plan", "plan.json"), "nowhere"),
        (("--budget", "1bits"), "cannot be kept"),
        ((*target, *steps), "expected at least 17"),
        ((*target, *steps[:3], "reconstruct.batch_size=16", "--evaluation-images", "0"), "aside"),
    ]:
        done = mrecg_command(*given, *arguments)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()
    monkeypatch.setitem(sys.modules, "scipy", None)
    done = mrecg_command(*given, *target)
    assert "error: Budgets need scipy" in done.stderr


def test_the_nearest_try_is_saved_where_none_holds(
    tmp_path: Path, mrecg_command: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("quantize", *network(tmp_path), *RTN, "--evaluation-images")
    missed = mrecg_command(*given, "0", "--max-drop", "0", "--budget", "2bits", "--output", "a")
    assert missed.returncode == 1
    assert "error: None of 1 tries holds the target" in missed.stderr
    assert mrecg.load(tmp_path / "a").record.target is not None
    read: list[EvaluationBatches] = []
    batches = EvaluationBatches.__iter__
    monkeypatch.setattr(EvaluationBatches, "__iter__", lambda one: read.append(one) or batches(one))
    held = mrecg_command(*given, "20", "--max-drop", "100", "--json", "--output", "b")
    assert held.returncode == 0, held.stderr
    record = json.loads(held.stdout)
    target, accuracy = record["target"], record["accuracy"]
    assert target["metric"] == "top-1"
    assert target["float_score"] == 5 * accuracy["float"]["correct1"]
    assert target["float_score"] - target["attempts"][0]["drop"] == pytest.approx(
        5 * accuracy["quantized"]["correct1"]
    )
    assert len(read) == 2  # the float network, and the one try


def test_mistakes_end_with_a_sentence(
    tmp_path: Path, mrecg_command: Callable[..., Finished]
) -> None:
    given = (*network(tmp_path), *RTN)
    (tmp_path / "wrong.yaml").write_text("layers: [a]\n")
    for arguments, said in [
        (("sensitivity", *given, "--weight-bits", "two"), "expected whole numbers"),
        (("sensitivity", *given, "--write-widths", "w.yaml"), "give --budget, too"),
        (("sensitivity", *given, "--budget", "1 stone"), "such as 4.0bits"),
        (("quantize", *given, "--widths", "wrong.yaml", "--output", "run"), "one list called"),
        (("quantize", *given, "--after", "5", "--output", "run"), "give --budget or --max-drop"),
        (
            ("quantize", *given, "--max-drop", "1", "--plan", "wrong.yaml", "--output", "run"),
            "leave --plan out",
        ),
    ]:
        done = mrecg_command(*arguments)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_an_interrupted_search_goes_on_behind_its_finished_tries(
    tmp_path: Path, mrecg_command: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def interrupted_once(*arguments: Any, **options: Any) -> QuantizedModel:
        made.append(options["recipe"].reconstruct.rounding)
        if len(made) == 2:
            raise KeyboardInterrupt
        return quantize(*arguments, **options)

    quantize = quantization.quantize
    monkeypatch.setattr(quantization, "quantize", interrupted_once)
    search = ("--max-drop", "0", "--budget", "3bits", "--evaluation-images", "0")
    given = (*network(tmp_path), "--preset", "w4a8-qronos", *RTN[2:], *search)
    source = tmp_path / "small_network.py"  # the same weights whenever it is built
    seeded = "    import torch\n    torch.manual_seed(0)\n    return"
    source.write_text(source.read_text().replace("    return", seeded))
    stopped = mrecg_command("quantize", *given, "--output", "run")
    assert stopped.returncode == 130, stopped.stderr
    assert "go on with mrecg quantize --resume" in stopped.stderr
    resumed = mrecg_command("quantize", "--resume", "run")
    assert "None of 2 tries holds the target" in resumed.stderr
    assert made == ["learned", "qronos", "qronos"]
    target = mrecg.load(tmp_path / "run").record.target
    assert target is not None
    assert [one.name.partition(",")[0] for one in target.attempts] == [
        "rounding to nearest",
        "rounding in closed form",
    ]
    assert not (tmp_path / "run" / UNFINISHED).exists()
