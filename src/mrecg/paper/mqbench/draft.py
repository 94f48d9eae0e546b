"""An experiment in the making: the keys of a foreign file become a recipe one after the other."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from mrecg.config.presets import preset
from mrecg.config.targets import ACADEMIC, BACKENDS
from mrecg.config.yaml_files import first_problem
from mrecg.errors import RecipeError, quoted
from mrecg.paper.mqbench.experiment import Experiment, Note
from mrecg.paper.mqbench.keys import ADAROUND, LOGARITHMIC, QCONFIG
from mrecg.paper.mqbench.readers import FLOAT_LAYERS, WIDTH, Reader
from mrecg.paper.published import PAPER_NETWORKS

__all__ = ["Dialect", "Draft"]

_ABSENT = "(absent)"
_QDROP_ROUNDING = "quant.w_qconfig.quantizer"
_BATCHES = 16
"""Batches that a file without `cali_batchsize` is calibrated on, as in all the authors' files."""


class Dialect(NamedTuple):
    """Say how one project's files are read.

    Attributes:
        sections: those about quantization.
        keys: readers in the order of reading.
        ignored: reasons by key.
        ignored_sections: reasons by the beginning of a key.
        settings: in which the project's code differs from the schedule `paper`, whatever its files say.
        absent: from the keys that a file has to the values of those that it lacks, and to what must not lack.
        units_of_paper: whether units are found as in the paper's code, which finds two less than we do in MobileNetV2.
    """

    sections: tuple[str, ...]
    keys: Mapping[str, Reader]
    ignored: Mapping[str, str]
    ignored_sections: Mapping[str, str]
    settings: Mapping[str, Any]
    absent: Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], tuple[str, ...]]]
    units_of_paper: bool


class Draft:
    """Collect an experiment key by key."""

    def __init__(self, path: Path, dialect: Dialect) -> None:
        self.where = f"The configuration {path}"
        self.dialect = dialect
        self.recipe = preset("w8a8-brecq", {"name": path.stem, **dialect.settings}, "paper")
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
        reason = str(error)
        end = "" if reason.endswith((".", "?")) else "."
        return RecipeError(f"{self.where}: {quoted(key)}: {reason}{end}")

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
                f"{self.where} has no key about quantization that is known, got {quoted(list(self.values))}."
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
        self._follow_units()
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
                f"{self.where} has a bad value for '{key}': {reason} (got {quoted(error.errors()[0]['input'])})."
            ) from error

    def _follow_units(self) -> None:
        """Group our units as theirs where the file joins none."""
        paper, plan = PAPER_NETWORKS.get(self.fields.get("network", "")), self.recipe.plan
        single = plan.join == "none" and plan.granularity == "block"
        if paper and single and self.dialect.units_of_paper and self.recipe.reconstruct.step_count:
            self.recipe = self.recipe.override(paper.without_joins)

    def _check_quantizers(self, backend: str) -> None:
        """Refuse weight quantizers that cannot be reconstructed: AdaRound's can, on NNIE's logarithmic grid too."""
        used = [value for key, value in self.values.items() if key.endswith("_fakequantize")]
        logarithmic = backend != ACADEMIC and BACKENDS[backend].settings["weight.logarithmic"]
        if LOGARITHMIC in used and not logarithmic:
            raise RecipeError(
                f"{self.where} asks for {LOGARITHMIC}, which only a backend with logarithmic codes has; "
                "set quantize.backend: NNIE."
            )
        asked = (self.values.get(key) for key in (f"{QCONFIG}.w_fakequantize", _QDROP_ROUNDING))
        rounding = next(filter(None, asked), ADAROUND)
        if self.recipe.reconstruct.step_count and rounding not in (ADAROUND, LOGARITHMIC):
            raise RecipeError(
                f"{self.where} reconstructs with the weight quantizer {rounding}, expected {ADAROUND} "
                "(or no reconstruction)."
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
