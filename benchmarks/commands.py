"""The command line that all benchmarks share: `measure` or the like, and `render`."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.store import RESULTS
from benchmarks.tables import DOCS

__all__ = ["Command", "rendering", "run_command"]


class Command(NamedTuple):
    """Describe one thing that a benchmark does.

    Attributes:
        name: on the command line.
        configure: adds its options.
        run: does it; the folder of the results is `arguments.results`.
    """

    name: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def rendering(page: str, write: Callable[[Path, Path], int]) -> Command:
    """Return the command that writes a page of the documents.

    Args:
        page: name of the file.
        write: is given the folder of the results and the file, and returns how many results it shows.
    """

    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the page")

    def run(arguments: argparse.Namespace) -> None:
        path = arguments.docs / page
        print(f"{write(arguments.results, path)} results in {path}")

    return Command("render", configure, run)


def run_command(
    doc: str | None,
    commands: Sequence[Command],
    given: Sequence[str] | None,
    threads: int | None = None,
) -> None:
    """Run the one of the commands that the arguments name.

    Args:
        doc: what `--help` shows.
        commands: of the benchmark.
        given: the arguments; `None` for those of the process.
        threads: of torch, where the arguments do not say; `None` leaves them alone.
    """
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=formatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--threads", type=int, default=threads)
    choices = parser.add_subparsers(required=True)
    for command in commands:
        chosen = choices.add_parser(command.name)
        command.configure(chosen)
        chosen.set_defaults(run=command.run)
    arguments = parser.parse_args(given)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    arguments.run(arguments)
