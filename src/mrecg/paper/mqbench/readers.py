"""Readers of values in foreign configuration files: from a value to recipe settings and fields of an experiment."""

from collections.abc import Callable, Mapping
from typing import Any

from mrecg.errors import RecipeError, did_you_mean, quoted

__all__ = [
    "COMMON_IGNORED",
    "COMMON_KEYS",
    "FLOAT_LAYERS",
    "WIDTH",
    "Reader",
    "named",
    "names",
    "only",
    "positive",
    "to",
]

Reader = Callable[[Any], Mapping[str, Any] | str]
"""From a value to changes, or to the reason why it is ignored. A name with a dot (or `seed`) is a recipe's, others are fields."""

WIDTH = "width_mult"
FLOAT_LAYERS = "float_layers"


def named(table: Mapping[str, Mapping[str, Any] | str], prefix: str = "") -> Reader:
    """Make a reader of names that looks them up in `table`."""

    def look_up(value: Any) -> Mapping[str, Any] | str:
        if not isinstance(value, str) or value not in table:
            asked = value if isinstance(value, str) else ""
            raise RecipeError(f"there is no {quoted(value)} here{did_you_mean(asked, table)}")
        found = table[value]
        if isinstance(found, str):
            return found
        return {prefix + key: setting for key, setting in found.items()}

    return look_up


def to(*keys: str) -> Reader:
    """Make a reader that passes the value on under our names."""
    return lambda value: dict.fromkeys(keys, value)


def only(allowed: object, reason: str) -> Reader:
    """Make a reader that accepts one value only, the one that mrecg has anyway, because of `reason`."""

    def check(value: Any) -> Mapping[str, Any]:
        if value != allowed:
            raise RecipeError(f"expected {allowed}, got {quoted(value)}; {reason}")
        return {}

    return check


def positive(field: str) -> Reader:
    """Make a reader of whole numbers from 1 on."""

    def check(value: Any) -> Mapping[str, Any]:
        if type(value) is not int or value < 1:
            raise RecipeError(f"expected a whole number of at least 1, got {quoted(value)}")
        return {field: value}

    return check


def names(value: Any) -> list[str]:
    """Return one name or a list of them as a list.

    Raises:
        RecipeError: it is something else.
    """
    found = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise RecipeError(f"expected names, got {quoted(value)}")
    return found


def _width(value: Any) -> Mapping[str, Any]:
    """Read how wide a network is, as a multiple of the usual one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _WIDEST:
        raise RecipeError(f"expected a number above 0 and up to {_WIDEST:g}, got {quoted(value)}")
    return {WIDTH: value}


_WIDEST = 10.0
_MODELS: Mapping[str, Mapping[str, Any] | str] = {
    **{f"resnet{depth}": {"network": f"resnet{depth}"} for depth in (18, 34, 50, 101, 152)},
    **{
        f"regnetx_{size}m": {"network": f"regnetx_{size}m"}
        for size in (200, 400, 600, 800, 1600, 3200, 4000, 6400, 8000, 12000, 16000, 32000)
    },
    "mobilenet_v2": {"network": "mobilenet_v2"},
    "mobilenetv2": {"network": "mobilenet_v2"},
    "mnasnet": "mrecg does not define this network; name one with --network, such as torchvision:mnasnet1_0",
}
"""By their names in MQBench and QDrop; the width of MobileNetV2 is a setting of its own there."""

COMMON_KEYS: Mapping[str, Reader] = {
    "model.type": named(_MODELS),
    "model.path": to("weights"),
    "model.kwargs.num_classes": to("num_classes"),
    "model.kwargs.width_mult": _width,
    "data.path": to("data"),
    "data.num_workers": to("workers"),
    "data.input_size": to("crop"),
    "data.test_resize": to("resize"),
    "process.seed": to("seed"),
}
COMMON_IGNORED: Mapping[str, str] = {
    "data.pin_memory": "images are copied to the device in batches"
}
