"""Configuration files of MQBench, of the paper's code and of QDrop, read as data, never evaluated.

Every key is either mapped onto a recipe or listed as ignored with the reason; so is what an absent key means there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrecg.config.yaml_files import flat, read_mapping
from mrecg.errors import RecipeError, quoted
from mrecg.paper.mqbench.draft import Dialect, Draft
from mrecg.paper.mqbench.experiment import Experiment
from mrecg.paper.mqbench.keys import IGNORED, IGNORED_SECTIONS, KEYS
from mrecg.paper.mqbench.mqbench_defaults import absent_keys
from mrecg.paper.mqbench.qdrop_keys import QDROP_IGNORED, QDROP_KEYS, absent_in_qdrop

__all__ = ["is_mqbench", "read_experiment"]

_MQBENCH = Dialect(
    ("extra_prepare_dict", "quantize"),
    KEYS,
    IGNORED,
    IGNORED_SECTIONS,
    {},
    absent_keys,
    units_of_paper=True,
)
_QDROP = Dialect(
    ("quant",),
    QDROP_KEYS,
    QDROP_IGNORED,
    {},
    {"reconstruct.batches": "reshuffled"},
    absent_in_qdrop,
    units_of_paper=False,
)


def is_mqbench(path: Path) -> bool:
    """Return whether a file has sections of MQBench or QDrop.

    Raises:
        RecipeError: it cannot be read.
    """
    sections = {*_MQBENCH.sections, *_QDROP.sections, "process", "root"}
    return bool(sections & read_mapping(path, "configuration").keys())


def read_experiment(path: Path) -> Experiment:
    """Read the configuration file `path`.

    Raises:
        RecipeError: the file cannot be read, a value cannot be understood, two contradict each other, or nothing in it is
            about quantization.
    """
    sections = _with_root(path, ())
    values = dict(flat(sections))
    dialects = [one for one in (_MQBENCH, _QDROP) if sections.keys() & set(one.sections)]
    if len(dialects) != 1:
        raise RecipeError(_refusal(path, sections))
    (dialect,) = dialects
    draft = Draft(path, dialect)
    absent, missing = dialect.absent(values)
    order = {key: position for position, key in enumerate(dialect.keys)}
    for key in sorted({**absent, **values}, key=lambda key: order.get(key, -1)):
        if key in values:
            draft.take(key, values[key])
        else:
            draft.assume(key, absent[key])
    draft.require_mapped(missing)
    return draft.experiment()


def _refusal(path: Path, sections: Mapping[str, Any]) -> str:
    if {"extra_prepare_dict", "quantize"} & sections.keys():
        return f"The configuration {path} has sections of MQBench and of QDrop (quant); keep one of them."
    ours = (
        "it is a recipe of mrecg, give it with --recipe"
        if {"weight", "activation"} <= sections.keys()
        else "got " + (", ".join(map(str, sections)) or "nothing")
    )
    return (
        f"The configuration {path} says nothing about quantization, expected a section extra_prepare_dict or quantize "
        f"(MQBench) or quant (QDrop); {ours}."
    )


def _with_root(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Read the file's settings, merged over those of the file that its `root` names."""
    settings = read_mapping(path, "configuration")
    root = settings.pop("root", None)
    if root is None:
        return settings
    if not isinstance(root, str):
        raise RecipeError(
            f"The configuration {path} has root = {quoted(root)}, expected a file name."
        )
    parent = (path.parent / root).resolve()
    if parent in (path.resolve(), *seen):
        raise RecipeError(f"The configuration {path} has itself as root, through {parent.name}.")
    return _merged(_with_root(parent, (*seen, path.resolve())), settings)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        nested = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merged(old, value) if nested else value  # type: ignore[arg-type]
    return merged
