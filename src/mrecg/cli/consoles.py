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
console = Console()
error_console = Console(stderr=True)
