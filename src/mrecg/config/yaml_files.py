"""A YAML file as a mapping, without what a configuration has no use for; and what is wrong with its values."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mrecg.errors import RecipeError

__all__ = ["first_problem", "flat", "read_mapping"]

_WORDS = {
    r"^Value error, ": "",
    r"^Input should be (?:a valid )?": "expected ",
    r"\b(?:tuple|list)\b": "list",
    r"^expected (list|number|string|dictionary)": r"expected a \1",
    r"^expected integer.*": "expected a whole number",
    r"^expected boolean.*": "expected true or false",
    r"^Field required": "it is missing",
    r"^Tuple should have (at \w+ \d+ items?) after validation, not \d+": r"expected \1",
    r", unable to parse .*": "",
}
"""pydantic's sentences in the words of ours."""
_ALTERNATIVE = re.compile(r"constrained-|literal\[")
"""Parts of a location that pydantic adds to the keys where a value may be of several kinds."""


class _Loader(yaml.SafeLoader):
    """Refuses aliases: ten lines of nested ones stand for more text than a memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, f"the alias '*{event.anchor}' is not accepted", event.start_mark
            )
        return super().compose_node(parent, index)


def first_problem(error: ValidationError) -> tuple[str, str]:
    """The dotted key of the first value that does not fit, and why; the key is empty where values contradict each other."""
    first = error.errors()[0]
    reason = first["msg"]
    for pattern, replacement in _WORDS.items():
        reason = re.sub(pattern, replacement, reason)
    key = [part for part in map(str, first["loc"]) if not _ALTERNATIVE.match(part)]
    return ".".join(key), reason


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings under dotted keys."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Args:
        path: the file.
        what: what the file is called in a message, such as "recipe".

    Raises:
        RecipeError: the file cannot be read, is no YAML, uses aliases or object tags, or holds no mapping.
    """
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"The {what} {path} cannot be read: {reason}.") from error
    if not isinstance(loaded, dict):
        raise RecipeError(
            f"The {what} {path} holds {type(loaded).__name__}, expected a mapping of settings."
        )
    return loaded
