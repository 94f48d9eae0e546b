"""What a run found out: frozen models, JSON in and out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mrecg.config.yaml_files import first_problem
from mrecg.errors import RunError, expect

__all__ = [
    "Evaluation",
    "FoundModel",
    "GroupRecord",
    "Jump",
    "Layer",
    "Neighbours",
    "NetworkRecord",
    "Oscillation",
    "Plan",
    "QuantizerRecord",
    "Record",
    "UnitRecord",
]


def check_new(path: Path) -> None:
    """Refuse a file that exists or whose folder cannot be made; ask before the work, not after.

    Raises:
        RunError: naming it.
    """
    if path.exists() or path.is_symlink():
        raise RunError(f"The file {path} already exists; name another or remove it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"The file {path} cannot be written: {error.strerror}.") from error


class FoundModel(BaseModel):
    """Frozen, refuses unknown keys, reads and writes JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> str:
        """The value as indented JSON."""
        return self.model_dump_json(indent=2) + "\n"

    def write(self, path: str | Path) -> None:
        """Write a new JSON file.

        Raises:
            RunError: it exists, or cannot be written.
        """
        check_new(Path(path))
        try:
            Path(path).write_text(self.to_json(), encoding="utf-8")
        except OSError as error:
            raise RunError(f"The file {path} cannot be written: {error.strerror}.") from error

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The value in a JSON file.

        Raises:
            RunError: the file cannot be read or is not of this kind.
        """
        expect(path, (str, Path), "What is read", "name a JSON file", RunError)
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise RunError(f"The file {path} cannot be read: {error.strerror}.") from error
        except (UnicodeDecodeError, ValidationError) as error:
            problem = first_problem(error) if isinstance(error, ValidationError) else (str(error),)
            reason = ": ".join(filter(None, problem))
            raise RunError(f"The file {path} is no {cls.__name__.lower()}: {reason}.") from error


@dataclass(frozen=True)
class Evaluation:
    """How many images were classified, and how many of them correctly.

    Attributes:
        count: images.
        correct1: the label is the largest logit.
        correct5: the label is among the five largest.
    """

    count: int
    correct1: int
    correct5: int

    @property
    def top1(self) -> float:
        """Accuracy in percent."""
        return 100 * self.correct1 / self.count

    @property
    def top5(self) -> float:
        """Accuracy in percent when five guesses are allowed."""
        return 100 * self.correct5 / self.count


class Layer(FoundModel):
    """One quantized layer.

    Attributes:
        name: of the module that owns the weight.
        kind: the ATen operator.
        parameters: elements of the weight.
        bits: width of the weight; 32 is float.
        stride: of a convolution; 1 for a linear layer.
        groups: of a convolution: `dense`, `grouped` or `depthwise`.
    """

    name: str
    kind: str
    parameters: int
    bits: int
    stride: int
    groups: Literal["dense", "grouped", "depthwise"]


class Neighbours(FoundModel):
    """Two units that follow each other, as the plan saw them.

    Attributes:
        first, second: their names.
        difference: their CapDiff under the plan's rule; `None` where the rule has none.
        homogeneous: whether they have as many layers, of equal stride and groups (METHOD: topological homogeneity).
        joined: whether they are in one group.
    """

    first: str
    second: str
    difference: float | None
    homogeneous: bool
    joined: bool


class Plan(FoundModel):
    """Which units are reconstructed jointly, and what the rule saw. Edit `groups` and pass it back as you like.

    Attributes:
        groups: unit names; together all units of the model in their order.
        rule: how it came about, in words.
        metric: the value of every unit under the rule, in chain order; empty where the rule has none.
        neighbours: every pair of units that follow each other.
    """

    groups: tuple[tuple[str, ...], ...]
    rule: str = "explicit"
    metric: tuple[float, ...] = ()
    neighbours: tuple[Neighbours, ...] = ()

    @property
    def joined(self) -> tuple[tuple[str, ...], ...]:
        """The groups of more than one unit."""
        return tuple(group for group in self.groups if len(group) > 1)

    def __str__(self) -> str:
        joined = ", ".join("(" + " ".join(group) + ")" for group in self.joined) or "none"
        return f"{sum(map(len, self.groups))} units, joined: {joined} [{self.rule}]"


class UnitRecord(FoundModel):
    """One unit after the tuning of its group.

    Attributes:
        name: of the unit.
        layers: its layers.
        shape: of its last output, without the batch.
        group: index of its group.
        loss: `Σ_c |y_q − y|²`, averaged over images and positions, everything before it quantized.
        relative_loss: the same as a fraction of the signal power `Σ_c |y|²`.
        nearest_loss: the loss with its group rounded to nearest, everything before the group as tuned.
    """

    name: str
    layers: tuple[Layer, ...]
    shape: tuple[int, ...]
    group: int
    loss: float
    relative_loss: float
    nearest_loss: float


class GroupRecord(FoundModel):
    """One group's tuning.

    Attributes:
        units: names of its units.
        steps: optimisation steps that were taken.
        first_loss, last_loss: of the first step, and the mean of about the last tenth, with soft rounding.
        undecided: fraction of the roundings that were not decided when they were made hard.
        accepted: the hard result had a smaller loss than rounding to nearest; else the group was rolled back.
        seconds: wall time.
    """

    units: tuple[str, ...]
    steps: int
    first_loss: float
    last_loss: float
    undecided: float
    accepted: bool
    seconds: float


class NetworkRecord(FoundModel):
    """The tuning of the network as a whole, after its groups.

    Attributes:
        steps: optimisation steps.
        divergence_before, divergence_after: of the answer from the float network's, on the mirrored calibration
            images: Kullback-Leibler of the predictions for logits, else the relative squared error.
        accepted: the divergence fell; else the network was left as it was.
        seconds: wall time.
    """

    steps: int
    divergence_before: float
    divergence_after: float
    accepted: bool
    seconds: float


class QuantizerRecord(FoundModel):
    """One quantizer of the result.

    Attributes:
        name: of the quantizer while the network is reconstructed.
        kind: of what.
        tensor: the parameter, or the module and operator whose output it is.
        readers: the layers that read it.
        low, high: smallest and largest code.
        scales: smallest and largest scale over the channels; of logarithmic codes, their smallest positive value.
    """

    name: str
    kind: Literal["weight", "activation"]
    tensor: str
    readers: tuple[str, ...]
    low: int
    high: int
    scales: tuple[float, float]


class Jump(FoundModel):
    """A rise of the relative loss along the chain that is followed by a fall.

    Attributes:
        unit: where the loss peaks.
        size: from the lowest point before to the peak.
    """

    unit: str
    size: float


class Oscillation(FoundModel):
    """How unsteadily the relative loss develops along the chain (METHOD: MRECG); none if it only rises.

    Attributes:
        jumps: every rise that is followed by a fall.
        total: the sizes of the jumps, added.
        largest_loss: the largest relative loss of a unit, which governs the final error.
        largest_unit: that unit.
    """

    jumps: tuple[Jump, ...]
    total: float
    largest_loss: float
    largest_unit: str

    @classmethod
    def along(cls, names: Sequence[str], losses: Sequence[float]) -> "Oscillation":
        """The oscillation of a series of relative losses, one per unit."""
        jumps, trough = [], losses[0]
        for name, loss, after in zip(names, losses, losses[1:], strict=False):
            trough = min(trough, loss)
            if after < loss and loss > trough:
                jumps.append(Jump(unit=name, size=loss - trough))
                trough = after
        largest = max(range(len(losses)), key=losses.__getitem__)
        return cls(
            jumps=tuple(jumps),
            total=sum(jump.size for jump in jumps),
            largest_loss=losses[largest],
            largest_unit=names[largest],
        )


class Record(FoundModel):
    """Everything that a run found out.

    Attributes:
        units, groups, plan, quantizers, oscillation: see their classes.
        network: the tuning of the whole, if there was one.
        left_in_float: layers without a quantized weight.
        images: how many calibrated.
        skipped_images: what could not be read, with the reasons.
        accuracy: of the float and the quantized network on the same images; empty where it was not measured.
        input_shape: of one image.
        preprocessing: how image files became such images, where mrecg read them.
        seconds: wall time by phase.
        environment: versions, device and threads.
    """

    units: tuple[UnitRecord, ...]
    groups: tuple[GroupRecord, ...]
    plan: Plan
    quantizers: tuple[QuantizerRecord, ...]
    oscillation: Oscillation
    network: NetworkRecord | None = None
    left_in_float: tuple[str, ...]
    images: int
    skipped_images: tuple[str, ...] = ()
    accuracy: Mapping[Literal["float", "quantized"], Evaluation] = {}
    input_shape: Annotated[tuple[int, ...], Field(min_length=1)]
    preprocessing: Mapping[str, Any] = {}
    seconds: Mapping[str, float]
    environment: Mapping[str, Any]
