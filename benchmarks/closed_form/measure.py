"""How near a network that is rounded in closed form is to the float one, and what it costs."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import nn
from torch.nn.functional import kl_div

import mrecg
from benchmarks.accuracy.cells import NETWORKS
from benchmarks.accuracy.measure import answers, percent_equal
from benchmarks.held_out.measure import HELD_OUT, Images
from benchmarks.provenance import commit
from mrecg.optimize import closed_form
from mrecg.paper.published import PAPER_NETWORKS
from mrecg.quantizers.error_feedback import round_with_feedback

__all__ = ["VARIANTS", "measure_variant"]


class Variant(NamedTuple):
    """Describe one way of rounding.

    Attributes:
        about: what it is, for the table.
        method: of a preset's name.
        settings: over the preset.
        shifts: whether closed-form rounding sees what the float network reads; without it is GPTQ.
    """

    about: str
    method: str
    settings: Mapping[str, Any] = {}
    shifts: bool = True


VARIANTS = {
    "nearest": Variant("to nearest", "rtn"),
    "gptq": Variant("closed form: GPTQ", "qronos", shifts=False),
    "qronos": Variant("closed form: Qronos", "qronos"),
    "steps": Variant(
        "20 steps of QDrop, network stage off",
        "qdrop",
        {"reconstruct.steps": 20, "network.steps": 0},
    ),
    "steps-network": Variant(
        "20 steps of QDrop, network stage on", "qdrop", {"reconstruct.steps": 20}
    ),
    "steps-125": Variant(
        "125 steps of QDrop, network stage off",
        "qdrop",
        {"reconstruct.steps": 125, "network.steps": 0},
    ),
}


def measure_variant(model: nn.Module, folder: Path, cell: Mapping[str, Any]) -> dict[str, Any]:
    """Quantize, and compare with the float network on held-out training images.

    Args:
        model: the float network.
        folder: of the data set's files.
        cell: network, bits, variant, set of images and how many.
    """
    given, count, variant = Images(folder), cell["images"], VARIANTS[cell["variant"]]
    calibration = given[cell["set"] * count : (cell["set"] + 1) * count]
    penalty = {"reconstruct.penalty": PAPER_NETWORKS[NETWORKS[cell["network"]]].penalty}
    recipe = mrecg.preset(f"{cell['bits']}-{variant.method}", {**penalty, **variant.settings})
    started = time.process_time()
    with nullcontext() if variant.shifts else _without_shift():
        quantized = mrecg.quantize(model, calibration, recipe=recipe, progress=False)
    cpu_seconds = time.process_time() - started
    held_out = given[-HELD_OUT:]
    ours, wanted = answers(quantized.model, held_out), answers(model.eval(), held_out)
    predictions = ours.log_softmax(1), wanted.log_softmax(1)
    record = quantized.record
    return {
        "divergence": float(kl_div(*predictions, reduction="batchmean", log_target=True)),
        "agreement": percent_equal(ours.argmax(1), wanted.argmax(1)),
        "accepted": [sum(group.accepted for group in record.groups), len(record.groups)],
        "cpu_seconds": cpu_seconds,
        "seconds": record.seconds,
        "commit": commit(),
        "recipe": recipe.model_dump(mode="json"),
        "environment": record.environment,
    }


def _without_shift() -> AbstractContextManager[Any]:
    """Round on what the quantized network reads alone, as GPTQ does."""

    def plain(
        weight: torch.Tensor, moments: torch.Tensor, shift: torch.Tensor, *others: Any
    ) -> Any:
        return round_with_feedback(weight, moments, torch.zeros_like(shift), *others)

    return mock.patch.object(closed_form, "round_with_feedback", plain)
