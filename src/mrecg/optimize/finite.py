"""Refuse a network whose numbers are none: NaN, infinite, or too large to be squared."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mrecg.errors import DataError, ModelError
from mrecg.graph.inputs import ModelInputs
from mrecg.graph.units import Unit
from mrecg.planning.cost import fastest_layout, images_per_pass
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.quantizers.grid import Scaling
from mrecg.shortage import Parts, Shortages
from mrecg.torch_state import compute_precision

__all__ = [
    "require_finite_activations",
    "require_finite_losses",
    "require_finite_power",
    "require_finite_ranges",
]


@torch.no_grad()
def require_finite_activations(
    prepared: PreparedGraph,
    images: ModelInputs,
    numbers: Sequence[int],
    shortages: Shortages | None = None,
) -> None:
    """Run the float network once; refuse activations that are no numbers before hours of work build on them.

    Args:
        prepared: the network.
        images: the inputs for calibration.
        numbers: what the message calls each of them.
        shortages: are told where memory is not enough for as many images as planned.

    Raises:
        DataError: some images give such values, others do not; names the first image, unit and layers.
        ModelError: all images of a pass do.
    """
    chain = prepared.chain
    size = min(map(images_per_pass, chain.units))

    def forward(first: int, last: int) -> None:
        values = fastest_layout(chain, images[first:last], prepared.device)
        for position, unit in enumerate(chain.units):
            with compute_precision("float32", prepared.device):
                results = unit.float_graph(*[values[name] for name in unit.inputs])
            # One number for the host to wait for: an infinite or NaN square tells of any.
            powers = [one.square().mean() for one in results]
            if powers and not math.isfinite(float(torch.stack(powers).sum())):
                _refuse(unit, results, powers, numbers[first:last])
            values |= dict(zip(unit.outputs, results, strict=False))
            values = {n: v for n, v in values.items() if chain.last_reader.get(n, -1) > position}

    parts = Parts(shortages or Shortages(), "passes through the network")
    for _ in parts.over(len(images), size, forward):
        pass


def _refuse(
    unit: Unit, results: Sequence[Tensor], powers: Sequence[Tensor], numbers: Sequence[int]
) -> None:
    wrong = next(
        (
            one
            for one, power in zip(results, powers, strict=True)
            if not math.isfinite(float(power))
        ),
        None,
    )
    if wrong is None:  # only their sum is infinite
        return
    rows = wrong.flatten(1) if len(wrong) == len(numbers) else wrong.reshape(1, -1)
    finite = rows.isfinite().all(1)
    if bool(finite.all()):
        finite = rows.square().mean(1).isfinite()
        what = f"values up to {float(wrong.abs().max()):.1e}, whose squares float32 cannot hold,"
    else:
        what = "NaN or infinite values"
    where = f"in the float network's unit {_named(unit)}"
    index = numbers[int((~finite).nonzero()[0])] if not bool(finite.all()) else numbers[0]
    if bool(finite.any()):
        raise DataError(
            f"Calibration image {index} gives {what} {where}; remove the image, or check the weights."
        )
    raise ModelError(
        f"Calibration image {index}, like all that ran with it, gives {what} {where}; check the weights."
    )


def require_finite_losses(units: Sequence[Unit], losses: Mapping[str, float]) -> None:
    """Refuse a group that even rounded to nearest gives no numbers.

    Args:
        units: the group.
        losses: of its outputs.

    Raises:
        ModelError: naming the first unit and its layers.
    """
    for unit in units:
        found = next((losses[n] for n in unit.outputs if not math.isfinite(losses[n])), None)
        if found is not None:
            raise ModelError(
                f"The loss of the unit {_named(unit)} is {found}, even rounded to nearest; leave its layers in float "
                "or give them more bits, by placement.overrides."
            )


def require_finite_power(unit: Unit, power: float) -> None:
    """Refuse a unit of the float network whose outputs are no numbers for some image.

    Args:
        unit: of the network.
        power: of its outputs.

    Raises:
        ModelError: naming the unit and its layers; `require_finite_activations` finds the image.
    """
    if not math.isfinite(power):
        raise ModelError(
            f"The outputs of the float network's unit {_named(unit)} are no finite numbers; check the weights and the images."
        )


def require_finite_ranges(prepared: PreparedGraph, scalings: Mapping[str, Scaling]) -> None:
    """Refuse activation quantizers whose range is no number.

    Args:
        prepared: the network.
        scalings: calibrated ones, by the names of quantizers.

    Raises:
        ModelError: naming the tensor and the layers that read it.
    """
    placed = {one.name: one for one in prepared.placed}
    for name, scaling in scalings.items():
        if not bool(torch.stack([one.isfinite().all() for one in scaling]).all()):
            raise ModelError(
                f"The range of '{placed[name].tensor}', which {', '.join(placed[name].readers)} read, is not finite; "
                "check the weights before it."
            )


def _named(unit: Unit) -> str:
    """Return the name of a unit with its layers, for a message."""
    layers = [layer.name for layer in unit.layers]
    if not layers or layers == [unit.name]:
        return f"'{unit.name}'"
    return f"'{unit.name}' ({', '.join(layers[:4])}{', …' if len(layers) > 4 else ''})"
