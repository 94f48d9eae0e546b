"""The findings of a run: units, groups, plan, quantizers, losses, timings."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from mrecg.records.evaluation import Evaluation
from mrecg.records.json_model import JsonModel
from mrecg.records.oscillation import Oscillation
from mrecg.records.plan import Layer, Plan

__all__ = ["GroupRecord", "NetworkRecord", "QuantizerRecord", "Record", "UnitRecord"]


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
    """

    units: tuple[str, ...]
    steps: int
    first_loss: float
    last_loss: float
    undecided: float
    accepted: bool
    seconds: float


class NetworkRecord(JsonModel):
    """The optimization of the network as a whole, after its groups.

    Attributes:
        steps: optimization steps.
        divergence_before, divergence_after: of the answer from the float network's, on images that tuned nothing:
            at the recipe's temperature where codes were learned, Kullback-Leibler of the predictions for logits, else the relative squared error.
        accepted: the divergence fell; else the network was left as it was.
        seconds: wall time.
    """

    steps: int
    divergence_before: float
    divergence_after: float
    accepted: bool
    seconds: float


class QuantizerRecord(JsonModel):
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


class Record(JsonModel):
    """Everything that a run found out.

    Attributes:
        units, groups, plan, quantizers, oscillation: see their classes.
        network: the optimization of the whole, if there was one.
        left_in_float: layers, recurrent ones included, and products with a parameter, without a quantized weight.
        images: how many calibrated.
        skipped_images: what could not be read, with the reasons.
        accuracy: of the float and the quantized network on the same images; empty where it was not measured.
        input_shape: of one image.
        preprocessing: how image files became such images, where mrecg read them.
        seconds: wall time by phase.
        environment: versions, device and threads.
        files: SHA-256 of the files of the run's folder; empty until it is saved.
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
    files: Mapping[str, str] = {}
