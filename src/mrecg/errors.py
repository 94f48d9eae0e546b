"""Every exception that mrecg raises on purpose.

MrecgError
├── RecipeError        a recipe, preset or override that cannot be used
│   └── PlanError      a plan that does not fit the model
├── DataError          images or labels that cannot be used
│   └── NoLabelsError  images without anything to evaluate against
├── ModelError         a network or checkpoint that cannot be used
│   └── CaptureError   a model that cannot be captured as a graph
├── RunError           a run folder that cannot be read or written
├── ExportError        a model that cannot be written for a runtime
│   └── VerificationError  a file that computes something else than the simulation
├── TargetError        a target of accuracy that no try holds
└── StorageError       memory or disk that is not enough, or a budget that cannot be read
"""

import reprlib
from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "CaptureError",
    "DataError",
    "ExportError",
    "ModelError",
    "MrecgError",
    "NoLabelsError",
    "PlanError",
    "RecipeError",
    "RunError",
    "StorageError",
    "TargetError",
    "VerificationError",
    "did_you_mean",
    "expect",
    "failure_of",
    "first_line",
    "quoted",
    "reason_of",
]


class MrecgError(Exception):
    """A mistake that its message explains in one sentence."""


class RecipeError(MrecgError):
    """A recipe, preset or override that cannot be used."""


class PlanError(RecipeError):
    """A plan that does not fit the model."""


class DataError(MrecgError):
    """Images or labels that cannot be used."""


class NoLabelsError(DataError):
    """Images without anything to evaluate against."""


class ModelError(MrecgError):
    """A network or checkpoint that cannot be used."""


class CaptureError(ModelError):
    """A model that cannot be captured as a graph."""


class RunError(MrecgError):
    """A run folder that cannot be read or written."""


class ExportError(MrecgError):
    """A model that cannot be written for a runtime."""


class VerificationError(ExportError):
    """A file that computes something else than the simulation."""


class TargetError(MrecgError):
    """A target of accuracy that no try holds."""


class StorageError(MrecgError):
    """Memory or disk that is not enough, or a budget that cannot be read."""


def expect(
    value: object, kind: type | tuple[type, ...], what: str, advice: str, error: type[MrecgError]
) -> None:
    """Raise `error` if `value` is not of the expected type, before it fails later and elsewhere.

    Args:
        value: an argument.
        kind: the expected type or types.
        what: name of the argument, as the subject of the message.
        advice: how to get the right one, as the end of the message.
        error: type of the exception.
    """
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        expected = " or ".join(map(_named, kinds))
        raise error(f"{what} is {_named(type(value))}, expected {expected}; {advice}.")


def _named(kind: type) -> str:
    article = "an" if kind.__name__[0] in "AEIOUaeiou" else "a"
    return f"{article} {kind.__name__}"


_QUOTES = reprlib.Repr()
_QUOTES.maxlevel, _QUOTES.maxstring, _QUOTES.maxlong, _QUOTES.maxother = 3, 80, 40, 80


def quoted(value: object) -> str:
    """Return a value as a message quotes it: as Python writes it, and shortened, since it may be a stranger's."""
    try:
        return _QUOTES.repr(value)
    except (ValueError, RecursionError):  # Python writes no whole number of more than 4,300 digits
        return f"a {type(value).__name__} that is too long to be shown"


def reason_of(error: Exception) -> str:
    """Return why something failed, as the end of a sentence: what the system says, in one line and without a stop."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return _shortened(" ".join(str(reason).split()))


def first_line(error: BaseException) -> str:
    """Return the same of an error whose further lines are no reason: traces, drawings and hints of other libraries."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return _shortened(lines[0] if lines else type(error).__name__)


def failure_of(error: Exception) -> str:
    """Return what failed as a sentence: that of an `MrecgError`; of anything else its class, too."""
    if isinstance(error, MrecgError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}."


def _shortened(line: str) -> str:
    line = line.rstrip(".")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} …"


_LONGEST = 300
"""Characters of a reason in a message."""


def did_you_mean(name: str, known: Iterable[str], listed: Iterable[str] = ()) -> str:
    """Return the end of a message about an unknown name: a question with the closest known name, or the known ones if none is close.

    Args:
        name: as the user wrote it; case does not matter.
        known: all names. One whose last dotted part is `name` counts as closest: `steps` is `reconstruct.steps`.
        listed: names to list if none is close; all by default.
    """
    names = {one.lower(): one for one in known}
    asked = name.lower()[:_LONGEST]  # comparing takes the square of the length
    ends = [one for one in names if one.rpartition(".")[2] == asked]
    close = ends or get_close_matches(asked, sorted(names), n=1)
    if close:
        return f"; did you mean {' or '.join(repr(names[one]) for one in close)}?"
    return f"; known: {', '.join(listed or names.values())}."
