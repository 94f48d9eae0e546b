"""Commands that show finished runs: report, compare."""

from pathlib import Path
from typing import Annotated

import typer

from mrecg.cli.consoles import console, say
from mrecg.cli.option_groups import command
from mrecg.cli.options import OutputOptions
from mrecg.errors import RunError
from mrecg.writing import require_new_file

__all__ = ["compare", "report"]

RunFolders = Annotated[list[Path], typer.Argument(metavar="RUN", help="The folders of runs.")]
NewPage = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write the page into a new file.")
]


@command
def report(runs: RunFolders, output: NewPage = None) -> None:
    """Write a page about a run, or about several side by side.

    Example: mrecg report runs/a runs/b -o page.html

    Without --output, the page of a single run is written into its folder, over the one that is there.
    """
    from mrecg.cli.run_pages import read_runs, refresh_page
    from mrecg.report.comparison import compare_runs
    from mrecg.report.comparison_page import comparison_chapter
    from mrecg.report.page import make_page, run_chapter

    if output is None:
        if len(runs) > 1:
            raise RunError("A page about several runs belongs to none of them; give --output.")
        written = refresh_page(runs[0])
    else:
        require_new_file(output)
        found = read_runs(runs)
        chapters = [run_chapter(run, f"run-{place}") for place, run in enumerate(found)]
        if len(found) > 1:
            chapters.insert(0, comparison_chapter(compare_runs(found)))
        title = found[0].name if len(found) == 1 else "Comparison"
        written = make_page(title, chapters).write(output)
    say(console, f"The page is in {written}.")


@command
def compare(runs: RunFolders, shown: OutputOptions, output: NewPage = None) -> None:
    """Compare runs, with those that differ only in seed together.

    Example: mrecg compare runs/a runs/b -o page.html
    """
    from mrecg.cli.run_pages import read_runs
    from mrecg.cli.show.comparison import show_comparison
    from mrecg.report.comparison import compare_runs
    from mrecg.report.comparison_page import comparison_chapter
    from mrecg.report.page import make_page

    if output is not None:
        require_new_file(output)
    found = compare_runs(read_runs(runs))
    if output is not None:
        make_page("Comparison", [comparison_chapter(found)]).write(output)
    if shown.as_json:
        console.print_json(data=found.as_data())
    else:
        show_comparison(console, found)
        if output is not None:
            say(console, f"\nThe page is in {output}.")
