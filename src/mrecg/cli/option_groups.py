"""Commands that share groups of options."""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter
from typing import Any, get_type_hints

from mrecg.cli.consoles import app

__all__ = ["command"]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command under its function's name; a parameter that is a dataclass becomes one option per field.

    Typer has no groups of options, but it reads nothing of a function except signature and annotations. So it gets a
    wrapper with the fields in place of the dataclass.
    """
    hints = get_type_hints(function, include_extras=True)
    groups = {
        name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)
    }

    @functools.wraps(function)
    def ungrouped(**values: Any) -> None:
        grouped = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        function(**values, **grouped)

    parameters: list[Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in groups:
            parameters += _options(groups[name])
        else:
            parameters.append(
                parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[name])
            )
    ungrouped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    ungrouped.__annotations__ = {one.name: one.annotation for one in parameters}
    return app.command()(ungrouped)


def _options(group: type) -> Iterator[Parameter]:
    """Turn the fields of a dataclass into parameters."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        default = Parameter.empty if field.default is MISSING else field.default
        yield Parameter(
            field.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
        )
