"""The accuracy benchmark in short: cells, measures and the tables made of them."""

import json
from pathlib import Path

import pytest
import torch

import mrecg
from benchmarks.accuracy.__main__ import main
from benchmarks.accuracy.cells import BITS, METHODS, NETWORKS, runs
from benchmarks.accuracy.measure import float_network, measured
from benchmarks.accuracy.render import choices_table, schedule_table
from benchmarks.accuracy.results import accuracy_store
from benchmarks.store import Result
from mrecg.data.fashion_mnist import load_split


def measure(results: Path, data: Path, *arguments: str) -> list[Result]:
    short = ["--images", "32", "--data", str(data)]
    main(["--results", str(results), "--threads", "1", "measure", *arguments, *short])
    return accuracy_store(results).read()


def test_cells_are_measured_once_and_shared_between_processes(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--networks", "resnet18_small", "--bits", "w4a4", "--methods", "rtn", "brecq"]
    arguments += ["--seeds", "2", "--steps", "2"]
    assert len(measure(tmp_path, data, *arguments, "--part", "1/2")) == 1
    assert capsys.readouterr().out.count("%") == 1
    measure(tmp_path, data, *arguments, "--part", "1/2")
    assert capsys.readouterr().out == ""  # finished cells are skipped
    cells = measure(tmp_path, data, *arguments, "--part", "2/2")
    assert capsys.readouterr().out.count("%") == 1
    found = [(cell["method"], cell["seed"]) for cell in cells]
    assert found == [("brecq", 2), ("rtn", 2)]
    for cell in cells:
        assert cell["recipe"]["seed"] == cell["seed"]
        assert cell["recipe"]["reconstruct"]["steps"] == (0 if cell["method"] == "rtn" else 2)
        assert cell["environment"]["torch"] == torch.__version__
        assert cell["commit"]
        assert cell["divergence"] > 0
        assert cell["agreement"] < 100


def test_runs_are_the_cells_of_the_papers_table() -> None:
    found = runs(list(NETWORKS), BITS, METHODS, [7, 3], 500, 256)
    assert len(found) == len(NETWORKS) * len(BITS) * len(METHODS) * 2
    assert [run.cell.seed for run in found] == sorted(
        (run.cell.seed for run in found), reverse=True
    )
    for run in found:
        recipe = run.recipe({})
        assert (recipe.seed, recipe.reconstruct.batch_size) == (run.cell.seed, 32)
        penalty = 0.1 if run.network in ("mbv2s", "mobilenetv2_small") else 0.01
        assert recipe.reconstruct.penalty == penalty
    with pytest.raises(mrecg.MrecgError, match="no method 'qdorp'"):
        runs(["resnet18s"], BITS, ["qdorp"], [1], 500, 256)


def test_the_papers_schedule_has_results_of_its_own(tmp_path: Path, data: Path) -> None:
    """Next to those of the default, and compared with the authors' figure at their steps."""
    arguments = ["--networks", "resnet18_small", "--bits", "w4a4", "--methods", "brecq"]
    arguments += ["--seeds", "2", "--steps", "2"]
    measure(tmp_path, data, *arguments)
    found = measure(tmp_path, data, *arguments, "--schedule", "paper")
    assert [cell.get("schedule") for cell in found] == [None, "paper"]
    recipe = found[1]["recipe"]
    assert recipe["plan"]["cut"] == "behind-quantizers"
    assert recipe["reconstruct"]["batches"] == "fixed"
    assert (recipe["reconstruct"]["steps"], recipe["reconstruct"]["batch_size"]) == (2, 32)
    paper, ours = (
        {**cell, "top1": top1} for cell, top1 in zip(found[::-1], (91.0, 90), strict=True)
    )
    authors = {"2": {"resnet18_small": {"w4a4": {"brecq": 90.5}}}}
    rows = schedule_table({"paper": [paper], "ours": [ours]}, authors)[2:]
    assert [row.split(" | ")[3] for row in rows] == ["paper", "ours"]
    assert rows[0].split(" | ")[5:8] == ["91.00 (1)", "90.50", "+0.50"]
    assert rows[1].split(" | ")[6:8] == ["", ""]


def test_a_network_is_nearest_to_itself(data: Path) -> None:
    model = float_network("mobilenetv2_small", None)
    found = measured(model, model, data)
    images, labels = load_split("test", data)
    assert len(images) == 100
    counted = mrecg.evaluate(model, [(images, labels)])
    assert found == {
        "top1": counted.top1,
        "agreement": 100,
        "divergence": pytest.approx(0, abs=1e-6),
    }


def test_reference_networks_need_their_folder(tmp_path: Path, data: Path) -> None:
    with pytest.raises(SystemExit, match="resnet18s needs --reference FOLDER"):
        measure(tmp_path, data, "--networks", "resnet18s")


def test_choices_are_compared_seed_by_seed(tmp_path: Path, data: Path) -> None:
    arguments = ["--networks", "resnet18_small", "--bits", "w4a4", "--methods", "brecq-mrecg"]
    for name in ("nothing", "early-stop"):
        found = measure(
            tmp_path, data, *arguments, "--seeds", "1", "--steps", "8", "--without", name
        )
    assert [cell["without"] for cell in found] == ["early-stop", "nothing"]
    rows = choices_table(found)[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| early-stop"]
    (ratio,) = (float(row.split(" | ")[-1].removesuffix(" |")) for row in rows)
    assert ratio == 1  # too short for an early stop


def test_settings_can_be_replaced(tmp_path: Path, data: Path) -> None:
    arguments = ["--networks", "resnet18_small", "--bits", "w4a4", "--methods", "rtn"]
    (cell,) = measure(tmp_path, data, *arguments, "--seeds", "1", "--set", "plan.largest_group=2")
    assert cell["recipe"]["plan"]["largest_group"] == 2
    assert json.loads((tmp_path / "recipes.jsonl").read_text())["recipe"] == cell["recipe"]
