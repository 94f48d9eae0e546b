"""The findings of a run: units, groups, plan, quantizers, losses, timings."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_serializer, model_validator

from mrecg.config.optimization import Precision
from mrecg.records.accuracy_target import AccuracyTarget
from mrecg.records.bit_choice import BitChoice
from mrecg.records.evaluation import Evaluation
from mrecg.records.json_model import JsonModel
from mrecg.records.oscillation import Oscillation
from mrecg.records.plan import Layer, Plan
from mrecg.records.sensitivity import Sensitivity

__all__ = [
    "Curve",
    "GroupRecord",
    "ImageSource",
    "ModelSize",
    "NetworkRecord",
    "QuantizerRecord",
    "Record",
    "TrainingRecord",
    "UnitRecord",
    "ValuesRecord",
]

Curve = tuple[tuple[int, float], ...]
"""Loss against steps: the last step of each part of an optimization, and the mean loss of the part."""


class UnitRecord(JsonModel):
    """One unit after its group was optimized.

    Attributes:
        name: of the unit.
        layers: its layers.
        shape: of its last output, without the batch.
        group: index of its group.
        loss: `Σ_c |y_q − y|²`, averaged over images and positions, everything before it quantized.
        relative_loss: the same as a fraction of the signal power `Σ_c |y|²`.
        nearest_loss: the loss with its group rounded to nearest, everything before the group as optimized.
    """

    name: str
    layers: tuple[Layer, ...]
    shape: tuple[int, ...]
    group: int
    loss: float
    relative_loss: float
    nearest_loss: float


class GroupRecord(JsonModel):
    """The optimization of one group.

    Attributes:
        units: names of its units.
        steps: optimization steps that were taken.
        first_loss, last_loss: of the first step, and the mean of about the last tenth, with soft rounding.
        undecided: fraction of the roundings that were not decided when they were made hard.
        accepted: the hard result had a smaller loss than rounding to nearest; else the group was rolled back.
        seconds: wall time.
        curve: the loss with soft rounding, in at most 40 parts; empty where it was not recorded.
        diverged: the first step whose loss was NaN or infinite, if there was one: then the group was rolled back, and the
            losses and the curve are of the steps before; where it was the first step, the losses are those of rounding to nearest.
        precision: in which its steps multiplied, but for grouped convolutions on a CPU, which are float32; `None` without steps, and in records of earlier versions.
    """

    units: tuple[str, ...]
    steps: int
    first_loss: float
    last_loss: float
    undecided: float
    accepted: bool
    seconds: float
    curve: Curve = ()
    diverged: int | None = None
    precision: Precision | None = None


class NetworkRecord(JsonModel):
    """The optimization of the network as a whole, after its groups.

    Attributes:
        steps: optimization steps.
        divergence_before, divergence_after: of the answer from the float network's, on images that tuned nothing and, if
            they are few, on views of them: at the recipe's temperature where codes were learned, Kullback-Leibler of the predictions for logits, else the relative squared error.
        accepted: the divergence fell; else the network was left as it was.
        seconds: wall time.
        curve: what is minimized, at some steps; empty where it was not recorded.
        diverged: the step at which the loss was seen to be NaN or infinite, if it was: then the network was left as it was.
        taken_for: what `reconstruct.answer = auto` took the tables among the outputs for, by their names in the graph.
        precision: in which its steps multiplied; `None` in records of earlier versions.
    """

    steps: int
    divergence_before: float
    divergence_after: float
    accepted: bool
    seconds: float
    curve: Curve = ()
    diverged: int | None = None
    taken_for: Mapping[str, Literal["logits", "values"]] = {}
    precision: Precision | None = None


class TrainingRecord(JsonModel):
    """Training after the run (quantization-aware training): how far it went from the run's result.

    Attributes:
        codes: of all weights.
        changed: how many of them are others than before.
        scales: smallest and largest factor by which a scale grew.
    """

    codes: int
    changed: int
    scales: tuple[float, float]


class ValuesRecord(JsonModel):
    """Histogram and lost channels behind a quantizer: of the codes of a weight, or of an activation on calibration images in float.

    Attributes:
        low, high: the real values of the smallest and the largest code of an activation; of a weight these codes themselves.
        counts: values in equal parts of `low` to `high`, of an activation in 32, with 8 more on either side of as much
            width, of which the first and the last hold all values beyond.
        channels: how many were looked at.
        dead: channels of which every value becomes 0.
        saturated: other channels of an activation, whose mean is outside of the range.
    """

    low: float
    high: float
    counts: Annotated[tuple[int, ...], Field(max_length=64)]
    channels: int
    dead: int
    saturated: int = 0


class QuantizerRecord(JsonModel):
    """One quantizer of the result.

    Attributes:
        name: of the quantizer while the network is reconstructed.
        kind: of what.
        tensor: the parameter, or the module and operator whose output it is.
        readers: the layers that read it.
        low, high: smallest and largest code.
        scales: smallest and largest scale over the channels; of logarithmic codes, their smallest positive value.
        values: what becomes of the values; `None` where it was not recorded.
    """

    name: str
    kind: Literal["weight", "activation"]
    tensor: str
    readers: tuple[str, ...]
    low: int
    high: int
    scales: tuple[float, float]
    values: ValuesRecord | None = None


class ModelSize(JsonModel):
    """Bytes of the parameters.

    Attributes:
        float_bytes: all in 32 bits, batch norms folded.
        quantized_bytes: codes and zero points in their bits, scales and everything else in 32.
    """

    float_bytes: int
    quantized_bytes: int


class ImageSource(JsonModel):
    """Where the images of a run came from, where mrecg read them.

    Attributes:
        name: of the source, as `--data` takes it; a path is absolute.
        crops: how they were cut.
        seed: of the choice of images, and of random crops.
        validation: the source of the images that accuracy was measured on, where it is another one.
    """

    name: str
    crops: Literal["center", "random"]
    seed: int
    validation: str | None = None


class Record(JsonModel):
    """Everything that a run found out.

    Attributes:
        units, groups, plan, quantizers, oscillation: see their classes.
        network: the optimization of the whole, if there was one.
        training: what training changed after the run; then units, groups and losses are those before it. `None` where there was none.
        left_in_float: layers, recurrent ones included, and products with a parameter, without a quantized weight.
        images: how many calibrated.
        skipped_images: what could not be read, with the reasons.
        accuracy: of the float and the quantized network on the same images; empty where it was not measured.
        size: of the parameters; `None` where it was not recorded.
        sensitivity, bits: by which widths were chosen, and the choice; `None` where a recipe prescribed them.
        target: the tries for a target of accuracy, of which this run is one; `None` where there was none.
        input_shape: of one image; empty where the network takes several inputs by name.
        input_shapes: of each input without the batch, by name, where there are several.
        preprocessing: how image files became such images, where mrecg read them.
        source: where the images came from; `None` where they were tensors, and in runs of earlier versions.
        seconds: wall time by phase.
        environment: versions of mrecg and of the libraries that decide bits, device and threads; the seed is in the recipe.
        inputs: hashes of the float network and of the calibration images; empty where they were not recorded.
        command: that made the run, on a command line; empty where Python made it.
        options: what a command asked for besides the recipe, such as the network's name and the source of its images; a sweep
            compares it before it takes the run for a cell's. Empty where Python made the run.
        shortages: what was done in a smaller way because memory ran out.
        files: SHA-256 of the files of the run's folder; empty until it is saved.
    """

    units: tuple[UnitRecord, ...]
    groups: tuple[GroupRecord, ...]
    plan: Plan
    quantizers: tuple[QuantizerRecord, ...]
    oscillation: Oscillation
    network: NetworkRecord | None = None
    training: TrainingRecord | None = None
    left_in_float: tuple[str, ...]
    images: int
    skipped_images: tuple[str, ...] = ()
    accuracy: Mapping[Literal["float", "quantized"], Evaluation] = {}
    size: ModelSize | None = None
    sensitivity: Sensitivity | None = None
    bits: BitChoice | None = None
    target: AccuracyTarget | None = None
    input_shape: tuple[int, ...] = ()
    input_shapes: Mapping[str, tuple[int, ...]] = {}
    preprocessing: Mapping[str, Any] = {}
    source: ImageSource | None = None
    seconds: Mapping[str, float]
    environment: Mapping[str, Any]
    inputs: Mapping[str, str] = {}
    command: tuple[str, ...] = ()
    options: Mapping[str, Any] = {}
    shortages: tuple[str, ...] = ()
    files: Mapping[str, str] = {}

    @model_validator(mode="after")
    def _takes_something(self) -> Self:
        if bool(self.input_shape) == bool(self.input_shapes):
            raise ValueError("it needs either the shape of one input or those of several")
        return self

    @model_validator(mode="after")
    def _measured_before_and_after(self) -> Self:
        if self.accuracy and set(self.accuracy) != {"float", "quantized"}:
            raise ValueError(
                "its accuracy is that of one network, expected 'float' and 'quantized'"
            )
        return self

    @field_serializer("accuracy")
    def _without_unknown_answers(
        self, accuracy: Mapping[str, Evaluation]
    ) -> dict[str, dict[str, Any]]:
        """Leave out what says nothing: records from before there were such fields keep their hash."""
        return {
            name: {
                one.name: value
                for one in fields(found)
                if (value := getattr(found, one.name)) != one.default
            }
            for name, found in accuracy.items()
        }
