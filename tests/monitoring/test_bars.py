"""Bars: one line per phase that fits, with a counter, the time left, and a loss with its unit."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from mrecg.monitoring.bars import BarReporter, NotebookReporter
from mrecg.optimize.progress import Progress
from mrecg.planning.estimate import Estimate
from screens import shown

ESTIMATE = Estimate(
    values=3 << 30,
    files=1 << 30,
    working=1 << 20,
    weights=1 << 20,
    phases={"reconstruction": 400, "network": 200},
    steps={},
)
LONG = ("layer1.0.conv_with_a_long_name", "layer1.1.conv_with_a_long_name")


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def picture(watch: Callable[[BarReporter, Clock], None], columns: int) -> list[str]:
    """The lines of a terminal after some events."""
    paper, clock = io.StringIO(), Clock()
    console = Console(file=paper, force_terminal=True, width=columns, height=50)
    with BarReporter(console, clock=clock) as reporter:
        watch(reporter, clock)
    lines = shown(paper.getvalue(), columns)
    assert max(map(len, lines)) <= columns
    return lines


def half_of_a_run(reporter: BarReporter, clock: Clock) -> None:
    with reporter.phase("capture"):
        clock.now = 4.0
    reporter(ESTIMATE)
    tune = Progress("tune", LONG, groups=20, steps=100)
    reporter(tune)
    clock.now = 14.0
    reporter(Progress("tune", LONG, 4, 20, 100, 100, 0.5, 0.0234, finished=True))
    reporter(Progress("tune", ("fc",), 5, 20, 0, 100))


@pytest.mark.parametrize("columns", [80, 120])
def test_a_line_per_phase_with_counter_time_left_and_loss(columns: int) -> None:
    *estimate, capture, optimize = picture(half_of_a_run, columns)
    assert " ".join(estimate).startswith(
        "about 2.0 GiB of memory and 1.0 GiB of files besides the model"
    )
    assert capture.split()[0::2] == ["capture", "0:00:04"]
    # A quarter took ten seconds.
    assert optimize.split()[0] == "optimize"
    assert "5/20 0:00:30 left ranges  fc" in optimize


def test_the_loss_is_a_percentage_of_the_signals_power() -> None:
    def watch(reporter: BarReporter, clock: Clock) -> None:
        reporter(Progress("tune", LONG, 4, 20, 50, 100, 163.0, 0.0234))

    (line,) = picture(watch, 80)
    assert "4/20" in line
    assert "loss 2.3 %" in line
    assert "163" not in line
    assert line.endswith("…")  # the names of the units give way


def test_the_network_stage_shows_what_it_minimizes() -> None:
    def watch(reporter: BarReporter, clock: Clock) -> None:
        reporter(Progress("network", ("all units",), steps=500))
        reporter(Progress("network", ("all units",), step=250, steps=500, loss=0.12))

    (line,) = picture(watch, 80)
    assert "250/500" in line
    assert "objective 0.12" in line


def test_a_finished_run_makes_room_for_the_next_one() -> None:
    def watch(reporter: BarReporter, clock: Clock) -> None:
        for name in ("w4a4-brecq", "w4a4-qdrop-with-a-name-that-is-too-long-for-a-line"):
            reporter.named(name, Progress("tune", ("fc",), 0, 1, 10, 10, 1.0, 0.5, finished=True))

    (line,) = picture(watch, 80)
    assert line.startswith("…")
    assert "for-a-line optimize" in line


def test_images_are_counted() -> None:
    def watch(reporter: BarReporter, clock: Clock) -> None:
        batches = [(range(30), range(30)), (range(20), range(20))]
        assert list(reporter.counted("float", batches, 50)) == batches  # type: ignore[arg-type]

    (line,) = picture(watch, 80)
    assert "50/50" in line


def test_brackets_in_names_are_no_markup() -> None:
    def watch(reporter: BarReporter, clock: Clock) -> None:
        reporter.note("images: folder:[red]\x1b[2J")
        reporter(Progress("tune", ("[b]x",), 0, 2, 1, 2, 1.0, 0.5))

    note, line = picture(watch, 80)
    assert note == "images: folder:[red]?[2J"
    assert line.endswith("[b]x")


class Handle:
    """What IPython's `display` returns."""

    def __init__(self) -> None:
        self.pages: list[str] = []

    def update(self, page: str) -> None:
        self.pages.append(page)


def test_a_notebook_shows_one_output_that_is_replaced() -> None:
    handle, first = Handle(), []

    def display(page: str, display_id: bool) -> Handle:
        assert display_id
        first.append(page)
        return handle

    with NotebookReporter(display, html=str) as reporter:
        reporter(ESTIMATE)
        reporter(Progress("tune", ("<b>",), 4, 20, 100, 100, 0.5, 0.0234, finished=True))
    assert len(first) == 1
    last = handle.pages[-1]
    assert "about 2.0 GiB of memory" in last
    assert "5/20" in last
    assert "loss 2.3 %" in last
    assert "&lt;b&gt;" in last
    assert last.count("optimize") == 1
    assert reporter._paper.getvalue() == ""  # pictures of hours would add up
