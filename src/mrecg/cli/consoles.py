"""Where commands are registered and where they print."""

import typer
from rich.console import Console

__all__ = ["app", "console", "error_console"]

app = typer.Typer(
    help="Post-training quantization of vision models at 2 to 8 bits.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_WIDTH_OF_FILES = 160
"""A file or a pipe has no edge, but a table needs one: this one breaks no name."""


def _console(stderr: bool) -> Console:
    made = Console(stderr=stderr)
    if not made.is_terminal:
        made.width = _WIDTH_OF_FILES
    return made


console = _console(stderr=False)
error_console = _console(stderr=True)
