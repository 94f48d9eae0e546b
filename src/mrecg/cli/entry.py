"""The entry point of the command line: several processes, and errors as sentences.

Exit codes: 0 ok, 1 a mistake that the message explains in a sentence, 2 usage.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

# Importing the commands registers them.
from mrecg.cli.commands import (  # noqa: F401
    accuracy,
    deployment,
    grids,
    names,
    pages,
    paper,
    quantization,
    widths,
)
from mrecg.cli.consoles import app, console, error_console, interrupted, say
from mrecg.errors import MrecgError, quoted, reason_of
from mrecg.shortage import is_shortage

__all__ = ["main"]

_LONGEST = 2000
"""Characters of a message: a name in it may be a stranger's."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error that mrecg raises on purpose becomes a sentence and exit code 1.

    Args:
        arguments: without the program's name; those of the process when absent.
    """
    try:
        with _processes(), _stoppable():
            given = sys.argv[1:] if arguments is None else arguments
            app(arguments, prog_name="mrecg", obj=("mrecg", *given))
    except MrecgError as error:
        raise _failure(str(error)) from error
    except OSError as error:
        where = f" at {quoted(error.filename)}" if error.filename else ""
        raise _failure(f"The system says{where}: {reason_of(error)}.") from error
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        raise _failure(
            f"Memory is not enough: {reason_of(error)}; give fewer or smaller images, or smaller batches."
        ) from error
    except KeyboardInterrupt:
        raise interrupted() from None


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let a request to end the process end it as Ctrl-C does: tidily, and saying how to go on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _processes() -> Iterator[None]:
    """Join the processes that `torchrun` started; only the first one prints, except for errors."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # checked here, because `distributed` imports torch
        yield
        return
    from mrecg.distributed import is_first, session

    with session():
        console.quiet = error_console.quiet = not is_first()
        try:
            yield
        finally:
            console.quiet = error_console.quiet = False


def _failure(message: str) -> SystemExit:
    if len(message) > _LONGEST:
        message = f"{message[:_LONGEST]} …"
    say(error_console, f"error: {message}", style="red")
    return SystemExit(1)
