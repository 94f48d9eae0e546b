"""The commands that show runs: pages, comparisons at 80 columns, and sentences for what cannot be shown."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import reported
import run_folders
from command_line import Finished, small_network
from mrecg.cli.show.comparison import show_comparison
from mrecg.export.findings import RuntimeRecord, Verification, save_verification
from mrecg.report.comparison import compare_runs
from mrecg.runs.files import recipe_of, record_of

Command = Callable[..., Finished]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one network and one of another; not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    quantized = run_folders.quantized()
    quantized.save(folder / "a")
    quantized.with_found(images=15).save(folder / "b")
    run_folders.quantized("residual").save(folder / "deep" / "a")
    return folder


def test_a_run_has_its_page(runs: Path, tmp_path: Path, mrecg_command: Command) -> None:
    run = run_folders.copy(runs / "a", tmp_path / "a")
    before = (run / "report.html").read_text("utf-8")
    assert "<title>a</title>" in before
    (run / "report.html").unlink()
    done = mrecg_command("report", str(run))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"The page is in {run / 'report.html'}.\n"
    assert (run / "report.html").read_text("utf-8") == before


def test_a_page_tells_the_speed_of_a_verified_file(
    runs: Path, tmp_path: Path, mrecg_command: Command
) -> None:
    run = run_folders.copy(runs / "a", tmp_path / "a")
    speed = RuntimeRecord(name="onnxruntime 1.32.0", seconds=0.002, float_seconds=0.003)
    silent = RuntimeRecord(name="openvino 2025.0", problem="cannot load it")
    verified = Verification(
        file="model.onnx",
        images=8,
        top1_agreement=100,
        top1_agreement_ties_apart=100,
        largest_difference=0,
        largest_distance=0.5,
        different_codes=0,
        codes=100,
        output_resolution=0.1,
        integer_layers=("0",),
        float_layers=(),
        file_bytes=4000,
        ideal_bytes=3000,
        runtimes=(speed, silent),
    )
    save_verification(run, verified)
    assert mrecg_command("report", str(run)).returncode == 0
    page = (run / "report.html").read_text("utf-8")
    assert "1.50 times as fast; onnxruntime 1.32.0" in page
    assert "openvino" not in page
    (run / "bad.verification.json").write_text("{}")
    done = mrecg_command("report", str(run))
    assert done.returncode == 1
    assert "bad.verification.json is no verification" in done.stderr


def test_a_page_about_several_runs(runs: Path, tmp_path: Path, mrecg_command: Command) -> None:
    page = tmp_path / "page.html"
    folders = [str(runs / name) for name in ("a", "b", "deep/a")]
    done = mrecg_command("report", *folders, "-o", str(page))
    assert done.returncode == 0, done.stderr
    heads = re.findall("<h1>(.*?)</h1>", page.read_text("utf-8"))
    assert heads == ["Comparison", folders[0], "b", folders[2]]
    again = mrecg_command("report", *folders, "-o", str(page))
    assert (again.returncode, again.stdout) == (1, "")
    assert "page.html already exists" in again.stderr
    nowhere = mrecg_command("report", *folders)
    assert nowhere.returncode == 1
    assert "belongs to none of them; give --output" in nowhere.stderr


def test_compare(runs: Path, tmp_path: Path, mrecg_command: Command) -> None:
    page = tmp_path / "page.html"
    done = mrecg_command("compare", str(runs / "a"), str(runs / "b"), "--output", str(page))
    assert done.returncode == 0, done.stderr
    assert "calibration images" in done.stdout
    assert "Which is better?" in page.read_text("utf-8")
    told = mrecg_command("compare", str(runs / "a"), str(runs / "b"), "--json")
    data = json.loads(told.stdout)
    assert [group["runs"] for group in data["groups"]] == [["a"], ["b"]]
    assert data["settings"] == {"calibration images": ["16", "15"]}
    assert len(data["groups"][0]["losses"][0]) == len(data["ends"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "needs at least two runs, got 1"),
        (["a", "a"], "is given twice"),
        (["a", "nothing"], "cannot be read: No such file"),
    ],
)
def test_runs_that_cannot_be_compared(
    names: list[str], message: str, runs: Path, mrecg_command: Command
) -> None:
    done = mrecg_command("compare", *(str(runs / name) for name in names))
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_comparison_fits_80_columns() -> None:
    odd = "a/very long [name] of a run, as a cluster's job gives it"
    runs = [
        reported.run(
            f"{odd} {seed} {bits}",
            count=20,
            pattern="stage.{}." + "block" * 12,
            seed=seed,
            bits=bits,
        )
        for bits in (2, 3, 4, 8)
        for seed in (1, 2)
    ]
    runs += [reported.run("alone", count=20, pattern="stage.{}." + "block" * 12, bits=5)]
    out = io.StringIO()
    show_comparison(Console(file=out, width=80), compare_runs(runs))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("weight.bits" in line for line in lines) == 2  # five groups, four at once
    assert any(re.match(r"1  .*92\.50 ± 0\.00 +\d+\.\d %", line) for line in lines), lines
    assert "\x1b" not in out.getvalue()


def test_the_record_has_the_command(tmp_path: Path, mrecg_command: Command) -> None:
    run = tmp_path / "run"
    given = (
        *("quantize", "--network", small_network(tmp_path, channels=1), "--data", "demo"),
        *(
            "--preset",
            "w4a4-rtn",
            "--images",
            "16",
            "--evaluation-images",
            "50",
            "--output",
            str(run),
        ),
    )
    done = mrecg_command(*given)
    assert done.returncode == 0, done.stderr
    assert record_of(run).command == ("mrecg", *given)
    assert record_of(run).accuracy["float"].hits
    assert recipe_of(run).name == "w4a4-rtn"
    page = (run / "report.html").read_text("utf-8")
    assert "mrecg quantize --network small_network:net" in page
    assert "from the answers to the same 50 images" in page
