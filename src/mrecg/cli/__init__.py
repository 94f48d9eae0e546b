"""The command line: parse, call one library function, show progress, return an exit code.

Exit codes: 0 ok, 1 a mistake that the message explains in a sentence, 2 usage.
"""

import contextlib
import os
from collections.abc import Iterator

from mrecg.cli.commands import exporting, quantizing, reproducing
from mrecg.cli.consoles import app, console, error_console
from mrecg.errors import MrecgError

__all__ = ["app", "exporting", "main", "quantizing", "reproducing"]


@contextlib.contextmanager
def _processes() -> Iterator[None]:
    """Join what `torchrun` started; only the first process speaks, except about mistakes."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # asked here so that torch need not be imported
        yield
        return
    from mrecg.distributed import is_first, session

    with session():
        console.quiet = error_console.quiet = not is_first()
        try:
            yield
        finally:
            console.quiet = error_console.quiet = False


def main() -> None:
    """Run the command line; what mrecg raises on purpose becomes a sentence and exit code 1."""
    try:
        with _processes():
            app()
    except MrecgError as error:
        error_console.print(
            f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        raise SystemExit(1) from error
    except OSError as error:
        where = f" at {error.filename}" if error.filename else ""
        error_console.print(
            f"error: The system says{where}: {error.strerror or error}.",
            style="red",
            markup=False,
            soft_wrap=True,
        )
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        error_console.print("interrupted: what was not finished is not written")
        raise SystemExit(130) from None
