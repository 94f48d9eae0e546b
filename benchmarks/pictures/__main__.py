"""Draw the pictures of the documents from the code and from stored results; take one of a run's page.

python -m benchmarks.pictures render
python -m benchmarks.pictures photograph runs/first   # docs/pictures/page.png, in Chromium
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.commands import Command, rendering, run_command
from benchmarks.pictures.draw import draw_joining, draw_rounding
from benchmarks.pictures.page import photograph_page
from benchmarks.tables import DOCS


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    run_command(__doc__, (_render(), _photograph()), given)


def _render() -> Command:
    """Return the command that draws every picture."""

    def write(results: Path, folder: Path) -> int:
        folder.mkdir(exist_ok=True)
        draw_rounding(folder / "rounding.svg")
        return draw_joining(results, folder / "joining.svg")

    return rendering("pictures", write)


def _photograph() -> Command:
    """Return the command that takes a picture of a run's page."""

    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("folder", type=Path, help="of a run")
        parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the documents")

    def run(arguments: argparse.Namespace) -> None:
        photograph_page(arguments.folder / "report.html", arguments.docs / "pictures" / "page.png")

    return Command("photograph", configure, run)


if __name__ == "__main__":
    main()
