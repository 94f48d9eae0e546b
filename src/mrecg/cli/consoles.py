"""The application that commands are registered with, and the consoles that they print on."""

from typing import Annotated

import typer
from rich.console import Console
from typer.core import TyperGroup

from mrecg.config.texts import printable

__all__ = ["app", "console", "error_console", "interrupted", "say"]

_ORDER = (
    "demo",
    "quantize",
    "plan",
    "sensitivity",
    "evaluate",
    "verify-run",
    "report",
    "compare",
    "export",
    "verify",
    "recipe",
    "list",
    "sweep",
    "reproduce",
)
"""Commands in the order in which a newcomer needs them."""
_FILE_WIDTH = 160
"""Width of tables in files and pipes; Rich assumes 80 there, which breaks names of units."""


class _Ordered(TyperGroup):
    """Commands in our order; one that it does not name comes last."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        names = list(self.commands)
        return sorted(names, key=lambda one: _ORDER.index(one) if one in _ORDER else len(_ORDER))


app = typer.Typer(
    cls=_Ordered,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import mrecg

        typer.echo(f"mrecg {mrecg.__version__}")
        raise typer.Exit


@app.callback(epilog="mrecg COMMAND --help shows a command's options, with an example.")
def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Post-training quantization of vision models at 2 to 8 bits."""


def _console(stderr: bool) -> Console:
    made = Console(stderr=stderr)
    if not made.is_terminal:
        made.width = _FILE_WIDTH
    return made


console = _console(stderr=False)
error_console = _console(stderr=True)


def say(output: Console, text: str, style: str | None = None) -> None:
    """Print text as it is; lines are broken between words on a terminal, and nowhere else."""
    output.print(
        printable(text),
        style=style,
        markup=False,
        highlight=False,
        soft_wrap=not output.is_terminal,
    )


def interrupted(left: str = "nothing unfinished is written") -> SystemExit:
    """Say what an interruption leaves, and return the exit that a shell expects."""
    say(error_console, f"interrupted: {left}")
    return SystemExit(130)
