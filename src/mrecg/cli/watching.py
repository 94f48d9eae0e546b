"""Output while a command works."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mrecg.cli.consoles import error_console
from mrecg.cli.options import ProgressOptions

if TYPE_CHECKING:
    from mrecg.monitoring import Reporter
    from mrecg.optimize.progress import Progress, Report
    from mrecg.planning.estimate import Estimate

__all__ = ["both_reports", "reporting"]


@contextmanager
def reporting(output: ProgressOptions) -> Iterator["Reporter"]:
    """Show a run on standard error; nothing with `--quiet`, and in other processes than the first."""
    from mrecg.monitoring import SilentReporter, reporter_for

    silent = output.quiet or error_console.quiet
    with SilentReporter() if silent else reporter_for(error_console) as reporter:
        yield reporter


@contextmanager
def both_reports(reporter: "Reporter", folder: Path | None) -> Iterator["Report"]:
    """Report to a reporter, and where a folder is given to TensorBoard, too."""
    from mrecg.distributed import is_first
    from mrecg.monitoring import TensorBoard

    if folder is None or not is_first():
        yield reporter
        return
    with TensorBoard(folder) as board:

        def report(event: "Progress | Estimate") -> None:
            reporter(event)
            board(event)

        yield report
