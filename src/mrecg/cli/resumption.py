"""Going on with an interrupted run: its command is kept beside what is finished, and repeated."""

import contextlib
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mrecg.cli.consoles import error_console, interrupted, say
from mrecg.errors import RunError

if TYPE_CHECKING:
    from mrecg.runs.places import RunPlace

__all__ = [
    "given_command",
    "is_repeated",
    "note_command",
    "repeat_command",
    "required_folder",
    "resumable",
]

_COMMAND = "command.json"
_REPEATED = "(repeated)"
"""Follows the command in the context of one that is given again."""


def required_folder(output: Path | None) -> Path:
    """Return the folder that a run is to be written to.

    Raises:
        typer.BadParameter: none was given.
    """
    if output is None:
        raise typer.BadParameter(
            "the run needs a folder, or --resume DIR to go on with an interrupted run.",
            param_hint="--output",
        )
    return output


def note_command(place: "RunPlace", command: Sequence[str]) -> None:
    """Keep the command of a run, and the folder where it was given.

    Raises:
        RunError: it cannot be written.
    """
    from mrecg.distributed import is_first

    if is_first():
        noted = {"command": command, "folder": str(Path.cwd())}
        place.note(_COMMAND, json.dumps(noted).encode())


def repeat_command(context: typer.Context, folder: Path) -> None:
    """Give the command of an unfinished run again, in the folder where it was given, for the run's folder as it is called now.

    Raises:
        RunError: there is nothing to go on with, or its command cannot be read.
    """
    from mrecg.runs.places import RunPlace, check_unfinished

    check_unfinished(folder)
    place = RunPlace(folder.absolute())
    try:
        noted = json.loads(place.read_note(_COMMAND))
        name, *arguments = map(str, noted["command"])
        where = Path(noted["folder"])
    except (ValueError, KeyError, TypeError, RecursionError, RunError) as error:
        raise RunError(
            f"The unfinished run in {folder} was not started by a command; go on in Python with mrecg.resume, "
            "or remove the folder."
        ) from error
    if not where.is_dir():
        raise RunError(
            f"The run in {folder} was started in the folder {where}, which is gone; put it back, or start the run anew."
        )
    say(error_console, f"Going on with: {shlex.join([name, *arguments])}")
    program = context.find_root()
    with contextlib.chdir(where):
        # Other options are relative to where the command was given. Of two --output the last holds.
        program.command.main(
            [*arguments, f"--output={place.folder}"],
            prog_name=name,
            standalone_mode=False,
            obj=(name, *arguments, _REPEATED),
        )


def given_command(context: typer.Context) -> tuple[str, ...]:
    """Return the command as it was given, empty where Python called it."""
    return tuple(one for one in context.obj or () if one != _REPEATED)


def is_repeated(context: typer.Context) -> bool:
    """Return whether `repeat_command` gives this command."""
    return bool(context.obj) and context.obj[-1] == _REPEATED


@contextlib.contextmanager
def resumable(place: "RunPlace") -> Iterator[None]:
    """Say how to go on, and exit, if the run is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        if not (place.is_started and place.has_note(_COMMAND)):
            raise
        how = f"mrecg quantize --resume {shlex.quote(str(place.folder))}"
        raise interrupted(f"what is finished is kept; go on with {how}") from None
