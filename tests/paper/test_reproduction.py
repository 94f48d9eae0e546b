"""The paper's table: runs that survive what fails, their estimates, and the table that they make."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mrecg
from command_line import Finished
from mrecg.cli.show import estimates_as_json
from mrecg.errors import ModelError, RecipeError
from mrecg.optimize.progress import Progress
from mrecg.paper.networks import build
from mrecg.paper.published import find_checkpoint
from mrecg.paper.reproduction import (
    Budget,
    Cell,
    Outcome,
    Sources,
    TableAxes,
    as_markdown,
    budget_lines,
    cell_estimates,
    cells,
    columns,
    estimate_cells,
    reproduce,
    rows,
    texts,
)
from mrecg.pipeline import prepare
from mrecg.planning.estimate import Estimate
from mrecg.runs.places import UNFINISHED
from pictures import imagenet

pytestmark = pytest.mark.usefixtures("thin_resnet18")

QUICK = {
    "reconstruct.steps": 1,
    "reconstruct.batch_size": 4,
    "plan.loss_steps": 1.0,
    "weight.ranges.method": "minmax",  # needs no search
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, thin_resnet18: None) -> Path:
    """ImageNet in small, and a checkpoint as the authors publish it."""
    root = tmp_path_factory.mktemp("reproduction")
    imagenet(root / "imagenet", classes=10, images=12)
    (root / "checkpoints").mkdir()
    state = build("resnet18").state_dict()
    torch.save(state, root / "checkpoints" / "resnet18_imagenet.pth.tar")
    return root


def sources(folder: Path, **changes: Any) -> Sources:
    return Sources(f"imagenet:{folder / 'imagenet'}", folder / "checkpoints", size=32)._replace(
        **changes
    )


def test_finished_cells_are_skipped_and_failed_ones_named(folder: Path, tmp_path: Path) -> None:
    wanted = cells(
        TableAxes(
            ("resnet18", "mobilenetv2_050"),
            ("w4a4",),
            ("brecq", "brecq-scheme"),
            ("fast", "paper"),
            (1, 2),
        )
    )
    wanted = [cell for cell in wanted if (cell.schedule == "fast") == (cell.method == "brecq")]
    wanted = [cell for cell in wanted if cell.method == "brecq" or cell.seed == 1]
    budget = Budget(images=4, overrides=QUICK)
    found = list(reproduce(wanted, sources(folder, evaluation_images=10), budget, tmp_path))
    assert [outcome.cell for outcome in found] == wanted
    assert [outcome.status for outcome in found] == ["done"] * 3 + ["failed"] * 3
    assert all("mobilenetv2_050" in outcome.reason for outcome in found[3:])
    record = found[0].record
    assert record is not None
    assert record.accuracy["quantized"].count == 10
    assert mrecg.load(tmp_path / wanted[0].name).record == record
    again = list(reproduce(wanted, sources(folder, evaluation_images=10), budget, tmp_path))
    assert [outcome.status for outcome in again] == ["skipped"] * 3 + ["failed"] * 3
    assert again[0].record == record
    for changes, of_sources, difference in [
        ({"weight.bits": 8}, {}, r"weight\.bits = 4, not 8"),
        ({}, {"size": 64}, "size = 32, not 64"),
        ({}, {"evaluation_images": 20}, "evaluation_images = 10, not 20"),
        ({}, {"evaluation_images": None}, "evaluation_images = 10, not None"),
        ({}, {"data": "folder:other"}, "data = .*, not folder:other"),
        ({}, {"checkpoints": tmp_path}, "checkpoints = .*, not "),
        ({}, {"crops": "center"}, "crops = random, not center"),
    ]:
        other = Budget(images=4, overrides=QUICK | changes)
        asked = sources(folder, **{"evaluation_images": 10} | of_sources)
        (refused,) = reproduce(wanted[:1], asked, other, tmp_path)
        assert refused.status == "failed"
        assert re.search(f"was made with {difference}", refused.reason)
        ((concerned, problem),) = estimate_cells(wanted[:1], asked, other, tmp_path)
        assert (concerned, problem) == ((wanted[0],), refused.reason)
    asked = sources(folder, evaluation_images=10)
    assert not list(estimate_cells(wanted[:1], asked, budget, tmp_path))
    table = rows(again)
    results = [row.results[name] for row, name in zip(table, ("fast", "paper") * 2, strict=True)]
    assert [len(result.top1) for result in results] == [2, 1, 0, 0]
    assert results[0].mean == pytest.approx(sum(results[0].top1) / 2)
    assert table[1].published == 69.06
    assert table[1].difference("paper") == pytest.approx(results[1].top1[0] - 69.06)
    assert columns(table)[5:] == (
        "ours (fast)",
        "difference (fast)",
        "ours (paper)",
        "difference (paper)",
    )
    assert [line[5] != "" for line in texts(table)] == [True, False, True, False]
    assert "2 failed" in texts(table)[2][5]
    budgets = budget_lines(wanted, budget)
    assert budgets == [
        "Schedule fast, 1 steps per group in batches of 4, then 1 steps of the whole network, 4 images: "
        "resnet18, mobilenetv2_050",
        "Schedule paper, 1 steps per group in batches of 4, none of the whole network, 4 images: "
        "resnet18, mobilenetv2_050",
    ]
    assert as_markdown(table, budgets).count("\n") == 2 * len(budgets) + 2 + len(table)


def test_an_interrupted_cell_goes_on_behind_its_last_finished_group(
    folder: Path, tmp_path: Path
) -> None:
    (cell,) = cells(TableAxes(("resnet18",), ("w4a4",), ("qdrop",), ("fast",)))
    budget = Budget(4, QUICK | {"network.steps": 2})
    optimized: list[int] = []

    def run(output: str, interrupted_at: int | None = None) -> Outcome:
        def report(name: str, event: Progress | Estimate) -> None:
            if isinstance(event, Progress) and event.phase == "tune" and event.step:
                if event.finished and event.index == interrupted_at:
                    raise KeyboardInterrupt
                optimized.extend([] if event.finished else [event.index])

        asked = sources(folder, evaluation_images=10)
        (outcome,) = reproduce([cell], asked, budget, tmp_path / output, report)
        assert outcome.status == "done", outcome.reason
        return outcome

    with pytest.raises(KeyboardInterrupt):
        run("killed", interrupted_at=3)
    assert {path.name for path in (tmp_path / "killed" / cell.name).iterdir()} == {UNFINISHED}
    optimized.clear()
    other = Budget(4, QUICK | {"network.steps": 3})
    (refused,) = reproduce([cell], sources(folder), other, tmp_path / "killed")
    assert "was started with another recipe" in refused.reason
    assert run("killed").record is not None
    assert optimized == list(range(3, 10))
    run("whole")
    killed, whole = (mrecg.load(tmp_path / name / cell.name) for name in ("killed", "whole"))
    for name, tensor in whole.program.state_dict.items():
        assert torch.equal(killed.program.state_dict[name], tensor)
    assert killed.record.accuracy == whole.record.accuracy
    assert not (tmp_path / "killed" / cell.name / UNFINISHED).exists()


def test_both_schedules_have_a_column_each() -> None:
    both = cells(TableAxes(("resnet18",), ("w2a4",), ("qdrop",), ("paper", "fast")))
    assert len({cell.name for cell in both}) == 2
    (row,) = rows([Outcome(cell, "failed", None, "why") for cell in both])
    assert list(row.results) == ["paper", "fast"]
    assert row.as_dict()["results"]["fast"]["failed"] == ("why",)
    assert budget_lines(both, Budget())[0] == (
        "Schedule paper, 20,000 steps per group in batches of 256, none of the whole network, 4,096 images: resnet18"
    )


def test_what_cells_lack_is_said_once(folder: Path, tmp_path: Path) -> None:
    wanted = cells(TableAxes(("resnet50", "regnetx_600m"), ("w4a4", "w2a4"), ("brecq", "qdrop")))
    found = list(estimate_cells(wanted, sources(folder), Budget(8), tmp_path))
    assert [len(one.cells) for one in found] == [4, 4]
    assert ["resnet50" in str(found[0].found), "regnetx" in str(found[1].found)] == [True, True]
    (one,) = estimate_cells(wanted, sources(folder, data="imagenet:nowhere"), Budget(8), tmp_path)
    assert one.cells == tuple(wanted)
    assert one.found == "The ImageNet folder nowhere does not exist."


def test_a_network_is_captured_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured: list[str] = []

    def counted(*arguments: Any, **settings: Any) -> Any:
        captured.append(settings["recipe"].name)
        return prepare(*arguments, **settings)

    monkeypatch.setattr(cell_estimates, "prepare", counted)
    wanted = cells(TableAxes(("resnet18",), ("w4a4", "w2a2"), ("brecq", "qdrop-scheme")))
    found = list(estimate_cells(wanted, sources(folder), Budget(8), tmp_path))
    assert [one.cells for one in found] == [(cell,) for cell in wanted]
    assert all(isinstance(one.found, Estimate) for one in found)
    assert found[0].found is found[2].found  # widths cost nothing
    assert len(captured) == 1


def test_an_estimate_grows_with_the_work(folder: Path, tmp_path: Path) -> None:
    wanted = [Cell(name, "w4a4", "brecq", "paper", 1) for name in ("resnet18", "resnet50")]
    budgets = (Budget(8, {"reconstruct.steps": 10}), Budget(80, {"reconstruct.steps": 1000}))
    small, large = (
        list(estimate_cells(wanted, sources(folder), budget, tmp_path)) for budget in budgets
    )
    assert not isinstance(small[0].found, str)
    assert not isinstance(large[0].found, str)
    assert large[0].found.seconds > 5 * small[0].found.seconds
    assert large[0].found.memory > small[0].found.memory
    assert "resnet50" in str(small[1].found)  # no checkpoint: a sentence in place of a number
    possible, impossible = estimates_as_json(small)
    assert possible["seconds"] == small[0].found.seconds
    assert impossible == {"cells": [wanted[1].name], "problem": small[1].found}
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (TableAxes(networks=("resnet81",)), "did you mean 'resnet18'"),
        (TableAxes(methods=("brecq-mreg",)), "did you mean 'brecq-mrecg'"),
        (TableAxes(bits=("w9a4",)), "expected 2 to 8 bits"),
        (TableAxes(bits=("4/4",)), "no preset"),
        (TableAxes(seeds=()), "no cells"),
        (TableAxes(schedules=("papers",)), "did you mean 'paper'"),
    ],
)
def test_an_axis_that_is_wrong_is_refused_before_anything_runs(
    axes: TableAxes, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        cells(axes)


def test_checkpoints_are_found_under_either_name(folder: Path, tmp_path: Path) -> None:
    assert find_checkpoint(folder / "checkpoints", "resnet18").name == "resnet18_imagenet.pth.tar"
    for name in ("mobilenetv2_0.5-eaa6f9ad.pth", "mobilenetv2.pth.tar", "mobilenetv2_0.35-1.pth"):
        (tmp_path / name).touch()
    assert find_checkpoint(tmp_path, "mobilenetv2_050").name == "mobilenetv2_0.5-eaa6f9ad.pth"
    assert find_checkpoint(tmp_path, "mobilenetv2_100").name == "mobilenetv2.pth.tar"
    assert find_checkpoint(tmp_path, "mobilenetv2_035").name == "mobilenetv2_0.35-1.pth"
    d_li14 = tmp_path / "d-li14"
    d_li14.mkdir()
    for name, file in [
        ("mobilenetv2_100", "mobilenetv2_1.0-0c6065bc.pth"),
        ("mobilenetv2_075", "mobilenetv2_0.75-dace9791.pth"),
        ("mobilenetv2_050", "mobilenetv2_0.5-eaa6f9ad.pth"),
        ("mobilenetv2_035", "mobilenetv2_0.35-b2e15951.pth"),
    ]:
        (d_li14 / file).touch()
        assert find_checkpoint(d_li14, name).name == file
    with pytest.raises(ModelError, match=r"one checkpoint of resnet50.*found none"):
        find_checkpoint(tmp_path, "resnet50")
    (tmp_path / "mobilenetv2_100.safetensors").touch()
    with pytest.raises(ModelError, match=r"found mobilenetv2\.pth\.tar, mobilenetv2_100"):
        find_checkpoint(tmp_path, "mobilenetv2_100")


def test_the_command_prints_a_row_per_cell(
    tmp_path: Path, mrecg_command: Callable[..., Finished]
) -> None:
    """The authors' checkpoints and an ImageNet folder, three networks, 4 steps: from end to end."""
    imagenet(tmp_path / "imagenet", classes=10, images=12)
    (tmp_path / "checkpoints").mkdir()
    for name, file in [
        ("resnet18", "resnet18_imagenet.pth.tar"),
        ("mobilenetv2_050", "mobilenetv2_0.5-eaa6f9ad.pth"),
        ("regnetx_600m", "regnet_600m.pth.tar"),
    ]:
        state = build(name).state_dict()
        if name == "mobilenetv2_050":  # its published file has names of its own
            state = {
                key.replace("features.18", "conv").replace("classifier.1", "classifier"): value
                for key, value in state.items()
            }
        torch.save(state, tmp_path / "checkpoints" / file)
    arguments = [
        *("reproduce", "--output", str(tmp_path / "table"), "--steps", "4", "--images", "8"),
        *("--networks", "resnet18,mobilenetv2_050,regnetx_600m", "--bits", "w2a4"),
        *("--methods", "qdrop-scheme", "--set", "reconstruct.batch_size=4", "--size", "32"),
        *("--data", f"imagenet:{tmp_path / 'imagenet'}", "--workers", "0"),
        *("--checkpoints", str(tmp_path / "checkpoints"), "--evaluation-images", "20"),
    ]
    nowhere = ("--checkpoints", str(tmp_path / "nowhere"), "--dry-run", "--json")
    impossible = mrecg_command(*arguments, *nowhere)
    assert impossible.returncode == 1
    assert [set(cell) for cell in json.loads(impossible.stdout)] == [{"cells", "problem"}] * 3
    assert "3 of 3 cells cannot run, as listed" in impossible.stderr
    astray = ("--data", f"imagenet:{tmp_path / 'astray'}")
    for more in ((), ("--dry-run",)):
        lost = mrecg_command(*arguments, *astray, *more)
        assert lost.returncode == 1
        assert (lost.stdout + lost.stderr).count("astray does not exist") == 1
    planned = mrecg_command(*arguments, "--networks", "resnet18", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "1 cell" in planned.stdout
    assert not (tmp_path / "table").exists()
    done = mrecg_command(*arguments)
    assert done.returncode == 0, done.stderr
    assert (
        done.stderr.count("points below the published") == 3
    )  # random weights are worse than 71.01 %
    for name in ("resnet18", "mobilenetv2_050", "regnetx_600m"):
        assert any(name in line and "w2a4" in line for line in done.stdout.splitlines())
    written = (tmp_path / "table" / "table.md").read_text()
    assert written.count("qdrop-scheme") == 3
    assert "Schedule paper, 4 steps per group in batches of 4" in written
    assert "Schedule paper, 4 steps per group in batches of 4" in done.stdout
    assert ": done, " in done.stderr
    quiet = mrecg_command(*arguments, "--quiet")
    assert (quiet.returncode, quiet.stdout) == (0, done.stdout)
    assert ": skipped" not in quiet.stderr
    (tmp_path / "checkpoints" / "regnet_600m.pth.tar").write_bytes(b"nothing")
    more = mrecg_command(*arguments, "--seeds", "1005,1006", "--networks", "regnetx_600m", "--json")
    assert more.returncode == 1
    assert "1 of 2 cells failed: regnetx_600m-w2a4-qdrop-scheme-paper-seed1006" in more.stderr
    assert len(json.loads(more.stdout)[0]["results"]["paper"]["top1"]) == 1
    wrong = mrecg_command(*arguments, "--seeds", "one")
    assert wrong.returncode == 1
    assert "Seeds are integers" in wrong.stderr
