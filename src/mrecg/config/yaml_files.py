"""Read YAML files as mappings, and explain which of their values do not fit."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mrecg.errors import RecipeError, quoted, reason_of
from mrecg.reading import read_regular

__all__ = ["REASONS", "first_problem", "flat", "parse_mapping", "parse_value", "read_mapping"]

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
    "string_too_short": "expected at least {min_length} characters",
    "string_too_long": "expected at most {max_length} characters",
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
    "string_unicode": "expected a string that UTF-8 can hold",
    "literal_error": "expected {expected}",
    "value_error": "{error}",
    "json_invalid": "it is no JSON: {error}",
    **dict.fromkeys(("bool_type", "bool_parsing"), "expected true or false"),
}
"""Why a value does not fit, by pydantic's `type` of error; in braces what its context says."""

_LARGEST = 1 << 18
"""Bytes of a file; a reader in Python takes seconds for more, and minutes for some numbers."""
_DEEPEST = 30
"""Levels of lists and mappings in each other."""
_LONGEST_NUMBER = 100
"""Characters of a number; of some notations, PyYAML takes the square of the length."""

_ALTERNATIVES = ("constrained-", "literal[")
"""How pydantic's location of an error names one of several types that a value may have."""


class _Loader(yaml.SafeLoader):
    """Read values of JSON's kinds: numbers, texts, lists, and mappings whose keys differ.

    Aliases are refused: ten lines of nested ones stand for more text than a memory holds. A date is a text.
    """

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise _refused(f"the alias '*{event.anchor}' is not accepted", event)
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _refused(f"it is more than {_DEEPEST} levels deep", self.peek_event())  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag not in _TAGS:
            raise _refused(f"the tag {quoted(node.tag)} is not accepted", node)
        is_number = node.tag in (f"{_TAG}int", f"{_TAG}float")
        try:
            if is_number and len(node.value) > _LONGEST_NUMBER:
                raise ValueError
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError) as error:
            kind = node.tag.removeprefix(_TAG)
            raise _refused(f"{quoted(node.value)} cannot be read as {kind}", node) from error

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        found: dict[Hashable, Any] = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            twice, _ = Counter(str(key.value) for key, _ in node.value).most_common(1)[0]
            *_, last = (key for key, _ in node.value if str(key.value) == twice)
            raise _refused(f"the key {quoted(twice)} is there twice", last)
        return found


_TAG = "tag:yaml.org,2002:"
_TAGS = {f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}
_Loader.yaml_implicit_resolvers = {
    first: [one for one in resolvers if one[0] in _TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _refused(reason: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, reason, where.start_mark)


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
        contents = read_regular(path, _LARGEST + 1)
    except (OSError, ValueError) as error:  # a path with a null character is a ValueError
        raise _unreadable(path, what, error) from error
    return parse_mapping(contents, path, what)


def parse_mapping(contents: bytes, path: Path, what: str) -> dict[str, Any]:
    """Return the mapping in the contents of a YAML file; `path` and `what` name it in a message.

    Raises:
        RecipeError: they are no YAML, use aliases or object tags, or hold no mapping.
    """
    try:
        loaded = _load(contents)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _unreadable(path, what, error) from error
    if not isinstance(loaded, dict):
        raise RecipeError(
            f"The {what} {path} holds {type(loaded).__name__}, expected a mapping of settings."
        )
    return loaded


def parse_value(text: str, key: str) -> Any:
    """Return a single value that is written as in a YAML file; `key` names it in a message.

    Raises:
        RecipeError: as `parse_mapping`.
    """
    try:
        return _load(text.encode())
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RecipeError(
            f"The value of {quoted(key)} cannot be read: {_why_unreadable(error)}."
        ) from error


def _load(contents: bytes) -> Any:
    if len(contents) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST:,} bytes")
    return yaml.load(contents.decode("utf-8"), Loader=_Loader)


def _unreadable(path: Path, what: str, error: Exception) -> RecipeError:
    return RecipeError(f"The {what} {path} cannot be read: {_why_unreadable(error)}.")


def _why_unreadable(error: Exception) -> str:
    """Return the reason in a few words; PyYAML's also shows the line as a drawing."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        problem = " ".join(filter(None, (error.context, error.problem)))
        return f"{' '.join(problem.split())}, in line {error.problem_mark.line + 1}"
    return reason_of(error)
