"""The terminal as a user sees it, at 80 and 120 columns, in a pipe and without colors, against recorded screens."""

from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from command_line import Finished
from mrecg.cli import app
from screens import COLORS, compare, masked, run_in_terminal, shown

COMMANDS = list(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
WIDTHS = pytest.mark.parametrize("columns", [80, 120])
NETWORK = """\
import torch
from torch import nn

def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, 10))
"""


def arguments(output: Path) -> list[str]:
    """A run that takes a second: two layers, rounded to nearest."""
    return [
        *("quantize", "--network", "small_network:net", "--data", "demo", "--images", "16"),
        *("--preset", "w4a4-rtn", "--evaluation-images", "500", "--output", output.name),
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small_network.py").write_text(NETWORK, encoding="utf-8")
    return tmp_path


@WIDTHS
@pytest.mark.parametrize("command", [None, "quantize", "export"])
def test_help(
    command: str | None,
    columns: int,
    mrecg_command: Callable[..., Finished],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    done = mrecg_command(*filter(None, [command]), "--help")
    assert done.returncode == 0
    compare(
        f"{command or 'mrecg'}-help-{columns}", [one.rstrip() for one in done.stdout.splitlines()]
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_opens_with_an_example_and_nothing_is_cut(
    command: str, mrecg_command: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line.strip() for line in mrecg_command(command, "--help").stdout.splitlines()]
    first, second, *_ = filter(None, lines)
    assert first.startswith(f"Usage: mrecg {command} ")
    assert second.startswith(f"Example: mrecg {command}")
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)


# Two processes that import torch: only a terminal of their own shows what a user sees.
@pytest.mark.parametrize(("columns", "environment"), [(80, {}), (120, {"NO_COLOR": "1"})])
def test_quantize_in_a_terminal(columns: int, environment: dict[str, str], folder: Path) -> None:
    code, output = run_in_terminal(arguments(folder / "run"), columns, folder, **environment)
    lines = shown(output, columns)
    assert code == 0, "\n".join(lines)
    assert bool(COLORS.search(output)) == (not environment)
    compare(f"quantize-{columns}", [masked(line) for line in lines])


def test_quantize_in_a_pipe(folder: Path, mrecg_command: Callable[..., Finished]) -> None:
    done = mrecg_command(*arguments(folder / "run"))
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, done.stderr):
        assert all(one.isprintable() or one == "\n" for one in text)
    printed = [*done.stderr.splitlines(), "", *done.stdout.splitlines()]
    compare("quantize-piped", [masked(line) for line in printed])


def test_quiet_leaves_the_result(folder: Path, mrecg_command: Callable[..., Finished]) -> None:
    done = mrecg_command(*arguments(folder / "run"), "--quiet")
    assert done.returncode == 0
    assert not done.stderr
    assert len(done.stdout.splitlines()) == 5
    assert done.stdout.splitlines()[-1] == "next:       mrecg export run --output run.onnx"


@pytest.mark.parametrize("columns", [80])
def test_a_mistake_in_a_terminal(columns: int, tmp_path: Path) -> None:
    code, output = run_in_terminal(["recipe", "w4a4-brecc"], columns, tmp_path)
    assert code == 1
    compare(f"mistake-{columns}", shown(output, columns))
