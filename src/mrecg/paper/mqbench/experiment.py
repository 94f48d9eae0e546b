"""Configuration files of MQBench, of the paper's code and of QDrop, read as data, never evaluated.

Every key is either mapped onto a recipe or listed as ignored with the reason; so is what an absent key means there.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from mrecg.config.presets import preset
from mrecg.config.recipe import Recipe
from mrecg.config.targets import ACADEMIC, BACKENDS
from mrecg.config.yaml_files import first_problem, flat, read_mapping
from mrecg.errors import RecipeError
from mrecg.paper.mqbench.absent_keys import absent_keys
from mrecg.paper.mqbench.keys import (
    ADAROUND,
    IGNORED,
    IGNORED_SECTIONS,
    KEYS,
    LOGARITHMIC,
    QCONFIG,
)
from mrecg.paper.mqbench.qdrop_keys import QDROP_IGNORED, QDROP_KEYS, absent_in_qdrop
from mrecg.paper.mqbench.readers import FLOAT_LAYERS, WIDTH, Reader

__all__ = ["Experiment", "Note", "is_mqbench", "read_experiment"]


_ABSENT = "(absent)"
_BATCHES = 16
"""Batches that a file without `cali_batchsize` is calibrated on, as in all the authors' files."""


class Note(NamedTuple):
    """Say what became of one key."""

    key: str
    value: object
    remark: str


class Experiment(BaseModel):
    """Hold what a configuration file asks for.

    Attributes:
        recipe: the method.
        network: its name here, `None` where the file names none.
        num_classes: outputs of the classifier, where the file says.
        weights: the checkpoint.
        data: root of an ImageNet folder.
        images: how many are calibrated on.
        workers: processes that read images; `None` where the file does not say.
        crop, resize: sides of the evaluated images and of what they are cut from.
        mapped, ignored: every key of the file, with what became of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    network: str | None = None
    num_classes: int | None = None
    weights: Path | None = None
    data: Path | None = None
    images: int
    workers: int | None = None
    crop: int = 224
    resize: int = 256
    mapped: tuple[Note, ...] = ()
    ignored: tuple[Note, ...] = ()


class _Dialect(NamedTuple):
    """Say how one project's files are read.

    Attributes:
        sections: those about quantization.
        keys: readers in the order of reading.
        ignored: reasons by key.
        ignored_sections: reasons by the beginning of a key.
        absent: from the keys that a file has to the values of those that it lacks, and to what must not lack.
    """

    sections: tuple[str, ...]
    keys: Mapping[str, Reader]
    ignored: Mapping[str, str]
    ignored_sections: Mapping[str, str]
    absent: Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], tuple[str, ...]]]


_MQBENCH = _Dialect(
    ("extra_prepare_dict", "quantize"), KEYS, IGNORED, IGNORED_SECTIONS, absent_keys
)
_QDROP = _Dialect(("quant",), QDROP_KEYS, QDROP_IGNORED, {}, absent_in_qdrop)


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
    draft = _Draft(path, dialect)
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
        raise RecipeError(f"The configuration {path} has root = {root!r}, expected a file name.")
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


class _Draft:
    """Collect an experiment key by key."""

    def __init__(self, path: Path, dialect: _Dialect) -> None:
        self.where = f"The configuration {path}"
        self.dialect = dialect
        redrawn = {} if dialect is _MQBENCH else {"reconstruct.batches": "reshuffled"}
        self.recipe = preset("w8a8-brecq", {"name": path.stem, **redrawn}, "paper")
        self.fields: dict[str, Any] = {}
        self.exclude: list[str] = []
        self.in_float: list[dict[str, Any]] = []
        self.values: dict[str, Any] = {}
        self.mapped: list[Note] = []
        self.ignored: list[Note] = []

    def take(self, key: str, value: Any) -> None:
        """Map one key, or note why it is ignored."""
        self.values[key] = value
        changes = self._read(key, value)
        if isinstance(changes, str):
            self.ignored.append(Note(key, value, changes))
        else:
            self._apply(key, changes)
            became = ", ".join(f"{name} = {new}" for name, new in changes.items())
            self.mapped.append(Note(key, value, became or "as mrecg does"))

    def assume(self, key: str, value: Any) -> None:
        """Take what the other project takes for an absent key; note it where it changes something."""
        self.values[key] = value
        before = self.recipe, dict(self.fields)
        changes = self._read(key, value)
        if isinstance(changes, str):
            return
        self._apply(key, changes)
        if (self.recipe, self.fields) != before:
            became = ", ".join(f"{name} = {new}" for name, new in changes.items())
            self.mapped.append(Note(key, _ABSENT, became))

    def _read(self, key: str, value: Any) -> Mapping[str, Any] | str:
        if key in self.dialect.ignored:
            return self.dialect.ignored[key]
        if self.fields.get("backend") == "nnie" and ("_qscheme." in key or "observer" in key):
            return "the backend nnie decides: its grid has no other"
        if key not in self.dialect.keys:
            sections = [one for one in self.dialect.ignored_sections if key.startswith(one)]
            if sections:
                return self.dialect.ignored_sections[max(sections, key=len)]
            return "neither MQBench, nor QDrop, nor the paper's code reads it"
        try:
            return self.dialect.keys[key](value)
        except (RecipeError, TypeError) as error:
            raise self._explained(key, error) from error

    def _apply(self, key: str, changes: Mapping[str, Any]) -> None:
        settings = {name: new for name, new in changes.items() if "." in name or name == "seed"}
        try:
            self.recipe = self.recipe.override(settings)
        except RecipeError as error:
            raise self._explained(key, error) from error
        self.fields |= {name: new for name, new in changes.items() if name not in settings}
        self.exclude += self.fields.pop("exclude", [])
        self.in_float += self.fields.pop(FLOAT_LAYERS, [])

    def _explained(self, key: str, error: Exception) -> RecipeError:
        return RecipeError(f"{self.where}: '{key}': {str(error).rstrip('.')}.")

    def require_mapped(self, missing: Sequence[str]) -> None:
        """Refuse a file of which nothing about quantization was understood, or which lacks what it must have.

        Raises:
            RecipeError: naming it.
        """
        known = [
            note.key
            for note in self.mapped
            if note.value != _ABSENT
            and note.key.startswith(tuple(f"{one}." for one in self.dialect.sections))
        ]
        if not known:
            raise RecipeError(
                f"{self.where} has no key about quantization that is known, got {', '.join(self.values)}."
            )
        if missing:
            raise RecipeError(
                f"{self.where} lacks {', '.join(missing)}, which have no default there; add them."
            )

    def experiment(self) -> Experiment:
        """Return the experiment, once every key is read."""
        width = self.fields.pop(WIDTH, 1.0)
        backend = self.fields.pop("backend", ACADEMIC)
        if self.fields.get("network") == "mobilenet_v2":
            self.fields["network"] = f"mobilenetv2_{round(100 * width):03d}"
        size, batches = self.fields.pop("batch_size", None), self.fields.pop("batches", _BATCHES)
        if size is not None:
            self.fields["images"] = size * batches
            self.recipe = self.recipe.override({"reconstruct.batch_size": size})
        self.recipe = self.recipe.override(
            {"reconstruct.exclude": self.exclude, "placement.overrides": self.in_float}
        )
        self._check_quantizers(backend)
        if backend != ACADEMIC:
            self._settle_backend(backend)
        try:
            return Experiment(
                recipe=self.recipe,
                mapped=tuple(self.mapped),
                ignored=tuple(self.ignored),
                **self.fields,
            )
        except ValidationError as error:
            key, reason = first_problem(error)
            raise RecipeError(
                f"{self.where} has a bad value for '{key}': {reason} (got {error.errors()[0]['input']!r})."
            ) from error

    def _check_quantizers(self, backend: str) -> None:
        """Refuse weight quantizers that cannot be reconstructed: AdaRound's can, on NNIE's logarithmic grid too."""
        used = [value for key, value in self.values.items() if key.endswith("_fakequantize")]
        logarithmic = backend != ACADEMIC and BACKENDS[backend].settings["weight.logarithmic"]
        if LOGARITHMIC in used and not logarithmic:
            raise RecipeError(
                f"{self.where} asks for {LOGARITHMIC}, which only a backend with logarithmic codes has; "
                "set quantize.backend: NNIE."
            )
        rounding = self.values.get(f"{QCONFIG}.w_fakequantize", ADAROUND)
        if self.recipe.reconstruct.steps and rounding not in (ADAROUND, LOGARITHMIC):
            raise RecipeError(
                f"{self.where} reconstructs with the weight quantizer {rounding}, expected {ADAROUND} "
                "(or quantize_type: naive_ptq)."
            )

    def _settle_backend(self, name: str) -> None:
        """Hold the recipe to a target's limits, unless the schemes of the file are others: MQBench lets them win."""
        try:
            self.recipe = self.recipe.override({"placement.backend": name})
            remark = f"placement.backend = {name}"
        except RecipeError as error:
            reason = str(error).rpartition("': ")[2].rpartition(": ")[2].rstrip(".")
            remark = f"quantizers where {name} has them, on the file's grids, which it cannot run: {reason}"
        position = [note.key for note in self.mapped].index("quantize.backend")
        self.mapped[position] = self.mapped[position]._replace(remark=remark)
