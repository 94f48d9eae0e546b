"""A YAML file as a mapping, without what a configuration has no use for: aliases, objects, code."""

from pathlib import Path
from typing import Any

import yaml

from mrecg.errors import RecipeError

__all__ = ["read_mapping"]


class _Loader(yaml.SafeLoader):
    """Refuses aliases: ten lines of nested ones stand for more text than a memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, f"the alias '*{event.anchor}' is not accepted", event.start_mark
            )
        return super().compose_node(parent, index)


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
