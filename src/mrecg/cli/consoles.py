"""The application that commands are registered with, and the consoles that they print on."""

import typer
from rich.console import Console

__all__ = ["app", "console", "error_console"]

app = typer.Typer(
    help="Post-training quantization of vision models at 2 to 8 bits.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_FILE_WIDTH = 160
"""Width of tables in files and pipes; Rich assumes 80 there, which breaks names of units."""


def _console(stderr: bool) -> Console:
    made = Console(stderr=stderr)
    if not made.is_terminal:
        made.width = _FILE_WIDTH
    return made


console = _console(stderr=False)
error_console = _console(stderr=True)
