"""Who sees what: bars on a terminal and in a notebook, lines in a pipe, nothing where nobody looks."""

import io

import pytest
from rich.console import Console

import mrecg
import toys
from mrecg.errors import MrecgError
from mrecg.monitoring import reporter_for, watched
from mrecg.monitoring.bars import BarReporter, NotebookReporter
from mrecg.monitoring.lines import LineReporter
from mrecg.optimize.progress import ignore


def test_the_reporter_suits_the_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(reporter_for(Console(force_terminal=True)), BarReporter)
    assert isinstance(reporter_for(Console(file=io.StringIO())), LineReporter)
    assert isinstance(reporter_for(Console(force_jupyter=True)), NotebookReporter)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(reporter_for(Console(force_terminal=True)), LineReporter)


def test_by_default_a_pipe_gets_nothing_and_true_gets_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def quantize(progress: bool | None) -> list[str]:
        x = toys.images(16)
        mrecg.quantize(toys.make("chain"), x, recipe="w4a4-rtn", memory="1MiB", progress=progress)
        out, err = capsys.readouterr()
        assert not out
        return err.splitlines()

    assert quantize(None) == quantize(False) == []
    lines = quantize(True)
    assert lines[0].startswith("capture: ")
    assert any(line.startswith("optimize: 1/") and line.endswith(" %") for line in lines)
    assert lines[-1].startswith("freeze: ")


def test_what_is_called_is_passed_on() -> None:
    def own(event: object) -> None:
        """Do nothing."""

    with watched(own) as report:
        assert report is own
    with watched(False) as report:
        assert report is ignore
    with (
        pytest.raises(MrecgError, match="is an int, expected a bool; or give a function"),
        watched(3),
    ):  # type: ignore[arg-type]
        pass
