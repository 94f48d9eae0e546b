"""Read YAML files as mappings, and explain which of their values do not fit."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mrecg.errors import RecipeError

__all__ = ["REASONS", "first_problem", "flat", "parse_mapping", "read_mapping"]

_NUMBERS = {
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected at most {le}",
    "finite_number": "expected a finite number",
    **dict.fromkeys(("float_type", "float_parsing"), "expected a number"),
    **dict.fromkeys(
        ("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "expected a whole number"
    ),
}
_CONTAINERS = {
    "too_short": "expected at least {min_length} items",
    "too_long": "expected at most {max_length} items",
    "missing": "it is missing",
    "extra_forbidden": "there is no such key",
    "unexpected_keyword_argument": "there is no such key",
    **dict.fromkeys(("tuple_type", "list_type"), "expected a list"),
    **dict.fromkeys(("dict_type", "model_type", "dataclass_type"), "expected a mapping"),
}
REASONS: Mapping[str, str] = {
    **_NUMBERS,
    **_CONTAINERS,
    "string_type": "expected a string",
    "literal_error": "expected {expected}",
    "value_error": "{error}",
    "json_invalid": "it is no JSON: {error}",
    **dict.fromkeys(("bool_type", "bool_parsing"), "expected true or false"),
}
"""Why a value does not fit, by pydantic's `type` of error; in braces what its context says."""

_LARGEST = 1 << 18
"""Bytes of a file; a reader in Python takes seconds for more, and minutes for some numbers."""
_UNREADABLE = (
    yaml.YAMLError,
    RecursionError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
)
"""Errors of decoding a file, and of PyYAML on tags whose values do not fit: `!!int ""` is an IndexError."""

_ALTERNATIVES = ("constrained-", "literal[")
"""How pydantic's location of an error names one of several types that a value may have."""


class _Loader(yaml.SafeLoader):
    """Refuse aliases: ten lines of nested ones stand for more text than a memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, f"the alias '*{event.anchor}' is not accepted", event.start_mark
            )
        return super().compose_node(parent, index)


def first_problem(error: ValidationError) -> tuple[str, str]:
    """Return the dotted key of the first value that does not fit, and why; the key is empty where values contradict.

    Where a value may be of several types, the reason names each of them.
    """
    problems = error.errors(include_url=False)
    place = _without_alternatives(problems[0]["loc"])
    alternatives = [one for one in problems if _without_alternatives(one["loc"]) == place]
    reasons = [_reason(one) for one in alternatives]
    words = "expected "
    if len(reasons) > 1 and all(reason.startswith(words) for reason in reasons):
        return ".".join(place), words + " or ".join(one.removeprefix(words) for one in reasons)
    return ".".join(place), reasons[0]


def _without_alternatives(location: tuple[int | str, ...]) -> tuple[str, ...]:
    return tuple(part for part in map(str, location) if not part.startswith(_ALTERNATIVES))


def _reason(problem: ErrorDetails) -> str:
    template = REASONS.get(problem["type"])
    if template is None:
        return problem["msg"]
    context = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in problem.get("ctx", {}).items()
    }
    return template.format(**context)


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings under dotted keys."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Args:
        path: the file.
        what: what the file is called in a message, such as "recipe".

    Raises:
        RecipeError: the file cannot be read, is no YAML, uses aliases or object tags, or holds no mapping.
    """
    try:
        with path.open("rb") as file:
            contents = file.read(_LARGEST + 1)
    except (OSError, ValueError) as error:  # a path with a null character is a ValueError
        raise _unreadable(path, what, error) from error
    return parse_mapping(contents, path, what)


def parse_mapping(contents: bytes, path: Path, what: str) -> dict[str, Any]:
    """Return the mapping in the contents of a YAML file; `path` and `what` name it in a message.

    Raises:
        RecipeError: they are no YAML, use aliases or object tags, or hold no mapping.
    """
    try:
        if len(contents) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        loaded = yaml.load(contents.decode("utf-8"), Loader=_Loader)
    except _UNREADABLE as error:
        raise _unreadable(path, what, error) from error
    if not isinstance(loaded, dict):
        raise RecipeError(
            f"The {what} {path} holds {type(loaded).__name__}, expected a mapping of settings."
        )
    return loaded


def _unreadable(path: Path, what: str, error: Exception) -> RecipeError:
    reason = " ".join(str(error).split())
    return RecipeError(f"The {what} {path} cannot be read: {reason}.")
