"""Configuration files of MQBench and of the paper's code, read as data, never evaluated.

Every key is either mapped onto a recipe or listed as ignored with the reason.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from mrecg.config.presets import preset
from mrecg.config.recipe import Recipe
from mrecg.config.targets import ACADEMIC, BACKENDS
from mrecg.config.yaml_files import first_problem, flat, read_mapping
from mrecg.errors import RecipeError
from mrecg.paper.mqbench.keys import (
    ADAROUND,
    DEPLOYMENT,
    IGNORED,
    KEYS,
    LOGARITHMIC,
    QCONFIG,
    WIDTH,
)

__all__ = ["Experiment", "Note", "is_mqbench", "read_experiment"]


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
        batch_size: of calibration and reconstruction.
        calibration_batches: how many batches of that size are calibrated on.
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
    batch_size: int = 32
    calibration_batches: int = 16
    workers: int | None = None
    crop: int = 224
    resize: int = 256
    mapped: tuple[Note, ...] = ()
    ignored: tuple[Note, ...] = ()

    @property
    def images(self) -> int:
        """Return how many calibration images are asked for."""
        return self.batch_size * self.calibration_batches


def is_mqbench(path: Path) -> bool:
    """Return whether a file has sections of MQBench.

    Raises:
        RecipeError: it cannot be read.
    """
    sections = {"extra_prepare_dict", "quantize", "process", "root"}
    return bool(sections & read_mapping(path, "configuration").keys())


def read_experiment(path: Path) -> Experiment:
    """Read the configuration file `path`.

    Raises:
        RecipeError: the file cannot be read, a value cannot be understood, or two contradict each other.
    """
    values = dict(flat(_with_root(path, ())))
    order = {key: position for position, key in enumerate(KEYS)}
    draft = _Draft(path)
    for key in sorted(values, key=lambda key: order.get(key, -1)):
        draft.take(key, values[key])
    return draft.experiment()


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

    def __init__(self, path: Path) -> None:
        self.where = f"The configuration {path}"
        self.recipe = preset("w8a8-brecq", {"name": path.stem}, "paper")
        self.fields: dict[str, Any] = {}
        self.exclude: list[str] = []
        self.mapped: list[Note] = []
        self.ignored: list[Note] = []

    def take(self, key: str, value: Any) -> None:
        """Map one key, or note why it is ignored."""
        if key in IGNORED or key.startswith("quantize.deploy."):
            self.ignored.append(Note(key, value, IGNORED.get(key, DEPLOYMENT)))
        elif key not in KEYS:
            self.ignored.append(Note(key, value, "neither MQBench nor the paper's code reads it"))
        else:
            try:
                changes = KEYS[key](value)
                if isinstance(changes, str):
                    self.ignored.append(Note(key, value, changes))
                else:
                    self._apply(key, value, changes)
            except (RecipeError, TypeError) as error:
                raise RecipeError(f"{self.where}: '{key}': {str(error).rstrip('.')}.") from error

    def _apply(self, key: str, value: Any, changes: Mapping[str, Any]) -> None:
        settings = {name: new for name, new in changes.items() if "." in name or name == "seed"}
        self.recipe = self.recipe.override(settings)
        self.fields |= {name: new for name, new in changes.items() if name not in settings}
        self.exclude += self.fields.pop("exclude", [])
        became = ", ".join(f"{name} = {new}" for name, new in changes.items())
        self.mapped.append(Note(key, value, became or "as mrecg does"))

    def experiment(self) -> Experiment:
        """Return the experiment, once every key is read."""
        width = self.fields.pop(WIDTH, 1.0)
        backend = self.fields.pop("backend", ACADEMIC)
        if self.fields.get("network") == "mobilenet_v2":
            self.fields["network"] = f"mobilenetv2_{round(100 * width):03d}"
        if "batch_size" in self.fields:
            size = {"reconstruct.batch_size": self.fields["batch_size"]}
            self.recipe = self.recipe.override(size)
        self.recipe = self.recipe.override({"reconstruct.exclude": self.exclude})
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
        notes = (*self.mapped, *self.ignored)
        used = {note.key: note.value for note in notes if note.key.endswith("_fakequantize")}
        logarithmic = backend != ACADEMIC and BACKENDS[backend].settings["weight.logarithmic"]
        if LOGARITHMIC in used.values() and not logarithmic:
            raise RecipeError(
                f"{self.where} asks for {LOGARITHMIC}, which only a backend with logarithmic codes has; "
                "set quantize.backend: NNIE."
            )
        rounding = used.get(f"{QCONFIG}.w_fakequantize", ADAROUND)
        if self.recipe.reconstruct.steps and rounding not in (ADAROUND, LOGARITHMIC):
            raise RecipeError(
                f"{self.where} reconstructs with the weight quantizer {rounding}, expected {ADAROUND} "
                "(or quantize_type: naive_ptq)."
            )

    def _settle_backend(self, name: str) -> None:
        """Let a target overrule the quantization schemes; only for TensorRT MQBench leaves the widths to the file."""
        recipe, backend = self.recipe, BACKENDS[name]
        widths = {"weight.bits": backend.weight_bits, "activation.bits": backend.activation_bits}
        if name == "tensorrt":
            widths["weight.bits"] = min(recipe.weight.bits, backend.weight_bits)
            widths["activation.bits"] = min(recipe.activation.bits, backend.activation_bits)
        changes = widths | {"placement.first_last": "same"}
        self.recipe = recipe.override(changes).for_backend(name)
        left = {"p", "bit"} if name == "tensorrt" else {"p"}
        decided = [
            note
            for note in self.mapped
            if ("_qscheme." in note.key and note.key.rpartition(".")[2] not in left)
            or (note.key.endswith("_observer") and "weight.ranges.method" in backend.settings)
        ]
        for note in decided:
            self.mapped.remove(note)
            self.ignored.append(note._replace(remark=f"the backend {name} decides"))
