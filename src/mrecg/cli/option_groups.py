"""Commands that share groups of options."""

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter
from typing import Annotated, Any, get_args, get_type_hints

from typer.models import OptionInfo

from mrecg.cli.consoles import app, interrupted

__all__ = ["command"]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command under its function's name; a parameter that is a dataclass becomes one option per field.

    Typer has no groups of options, but it reads nothing of a function except signature and annotations. So it gets a
    wrapper with the fields in place of the dataclass. In the help, the options of a dataclass are under its `panel`, and the part
    of the docstring that starts with "Example:" comes first.
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
        try:
            function(**values, **grouped)
        except KeyboardInterrupt:  # Typer would exit without a word
            raise interrupted() from None

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
    short, text = _help_of(function)
    name = function.__name__.strip("_").replace("_", "-")
    return app.command(name, help=text, short_help=short)(ungrouped)


def _help_of(function: Callable[..., None]) -> tuple[str, str]:
    """Return the first sentence of a docstring, and the whole with its example in front."""
    parts = (inspect.getdoc(function) or "").split("\n\n")
    examples = [one for one in parts if one.startswith("Example:")]
    others = [one for one in parts if not one.startswith("Example:")]
    # \b keeps the lines of an example as they are.
    shown = [f"\b\n{one}" for one in examples]
    return others[0], "\n\n".join([*shown, *others])


def _options(group: type) -> Iterator[Parameter]:
    """Turn the fields of a dataclass into parameters, each under the panel of the class that declares it; its own panel first."""
    hints = get_type_hints(group, include_extras=True)
    owners: list[Any] = [one for one in group.__mro__ if is_dataclass(one)]
    panels = {
        name: owner.panel for owner in owners[::-1] for name in inspect.get_annotations(owner)
    }
    order = [owner.panel for owner in owners]
    for field in sorted(fields(group), key=lambda one: order.index(panels[one.name])):
        default = Parameter.empty if field.default is MISSING else field.default
        hint = _under_panel(hints[field.name], panels[field.name])
        yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _under_panel(hint: Any, panel: str) -> Any:
    """Return an annotated type whose option is shown under a panel."""
    kind, option = get_args(hint)
    assert isinstance(option, OptionInfo)
    shown = copy.copy(option)
    shown.rich_help_panel = panel
    return Annotated[kind, shown]
