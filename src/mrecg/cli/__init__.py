"""The command line: parse, call one library function, show progress, return an exit code.

Exit codes: 0 ok, 1 a mistake that the message explains in a sentence, 2 usage.
"""

from mrecg.cli import exporting, quantizing, reproducing
from mrecg.cli.consoles import app, error_console
from mrecg.errors import MrecgError

__all__ = ["app", "exporting", "main", "quantizing", "reproducing"]


def main() -> None:
    """Run the command line; what mrecg raises on purpose becomes a sentence and exit code 1."""
    try:
        app()
    except MrecgError as error:
        error_console.print(
            f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
