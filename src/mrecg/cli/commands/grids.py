"""The command that runs a grid of cells."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrecg.cli.cluster import ClusterOptions, chosen, finished, print_array, refuse_failed
from mrecg.cli.consoles import console, error_console, interrupted, say
from mrecg.cli.option_groups import command
from mrecg.cli.options import ProgressOptions
from mrecg.cli.resumption import given_command
from mrecg.errors import MrecgError, RunError
from mrecg.sweep.engines import Finished, Work
from mrecg.sweep.grid import read_grid
from mrecg.writing import write_file

if TYPE_CHECKING:
    from mrecg.cli.grid_runs import GridRun
    from mrecg.monitoring import Reporter
    from mrecg.records.record import Record

__all__ = ["sweep"]


@command
def sweep(
    context: typer.Context,
    grid: Annotated[Path, typer.Argument(metavar="GRID", help="A YAML file; lists are axes.")],
    output: Annotated[
        Path,
        typer.Option(metavar="DIR", help="A folder for one run per cell; runs in it are kept."),
    ],
    shown: ProgressOptions,
    where: ClusterOptions,
    only_table: Annotated[
        bool, typer.Option("--table", help="Only show what is finished so far.")
    ] = False,
) -> None:
    """Quantize every cell of a grid; given again, it goes on.

    Example: mrecg sweep grid.yaml --output runs/grid --ray local --cpus 2
    """
    from mrecg.cli.grid_runs import GridRun

    cells = read_grid(grid)
    runs = [GridRun(cell, output / cell.name) for cell in cells]
    for run in runs:
        run.check()
    if where.slurm:
        print_array(given_command(context), len(runs), where)
        return
    table = _Table(runs, output)
    if only_table:
        for run in runs:
            found = _found(run)
            if found is not None:
                table.keep(found)
                if found.result is None:
                    _say_finished(found)
    else:
        try:
            _run(chosen(runs, where), table, where, shown)
        except KeyboardInterrupt:
            left = "finished cells and groups are kept; give the command again to go on"
            raise interrupted(left) from None
    if where.cell is None:
        table.show(shown)
    refuse_failed(list(table.failed), len(runs))


def _run(
    runs: Sequence["GridRun"], table: "_Table", where: ClusterOptions, shown: ProgressOptions
) -> None:
    """Run cells, and rewrite the table behind each."""
    from mrecg.cli.watching import reporting

    with reporting(shown) as reporter:
        if where.ray is None:
            work = [Work(run.cell.name, partial(_watched, run, reporter)) for run in runs]
        else:
            work = [Work(run.cell.name, run.run) for run in runs]
        for done, one in enumerate(finished(work, where), start=1):
            table.keep(one)
            if one.result is None or not shown.quiet:
                _say_finished(one, f"{done} of {len(runs)}: ")
            if where.cell is None:
                table.write()


def _watched(run: "GridRun", reporter: "Reporter") -> "Record":
    from mrecg.monitoring.reporter import OneOfSeveral

    return run.run(OneOfSeveral(reporter, run.cell.name))


def _found(run: "GridRun") -> "Finished[Record] | None":
    """Return what became of a cell that is over; a run that was made with something else is a failure."""
    try:
        record = run.finished()
    except MrecgError as error:
        return Finished(run.cell.name, None, str(error))
    return None if record is None else Finished(run.cell.name, record)


def _say_finished(one: "Finished[Record]", count: str = "") -> None:
    """Show a line about a cell."""
    line = f"{count}{one.name}: {'failed' if one.result is None else 'done'}"
    if one.result is not None and one.result.accuracy:
        line += f", {one.result.accuracy['quantized'].top1:.2f} %"
    if one.reason:
        line += f": {one.reason}"
    say(error_console, line, None if one.result is not None else "red")


class _Table:
    """The results so far."""

    def __init__(self, runs: Sequence["GridRun"], output: Path) -> None:
        self._cells, self._output = [run.cell for run in runs], output
        self._records: dict[str, Record] = {}
        self.failed: dict[str, str] = {}

    def keep(self, one: "Finished[Record]") -> None:
        """Take in a cell that is over."""
        if one.result is None:
            self.failed[one.name] = one.reason
        else:
            self._records[one.name] = one.result

    def rows(self) -> list[dict[str, Any]]:
        """Return the table for a script."""
        from mrecg.sweep.table import table_rows

        return table_rows(self._cells, self._records, self.failed)

    def write(self) -> None:
        """Write the table beside the runs, in the place of an older one."""
        from mrecg.distributed import is_first
        from mrecg.sweep.table import as_markdown_table, table_lines

        if is_first() and self._records:
            text = as_markdown_table(table_lines(self._cells, self.rows()))
            write_file(self._output / "table.md", text.encode(errors="replace"), RunError)

    def show(self, shown: ProgressOptions) -> None:
        """Print the table."""
        from mrecg.cli.show import show_table
        from mrecg.sweep.table import table_lines

        if shown.as_json:
            console.print_json(data=self.rows())
        else:
            show_table(console, table_lines(self._cells, self.rows()))
