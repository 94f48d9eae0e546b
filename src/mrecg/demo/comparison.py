"""The demo: the float network against rounding to nearest, blocks, MRECG, and the network as a whole."""

import functools
from collections.abc import Callable, Iterable
from importlib.resources import as_file, files
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mrecg.config.presets import preset
from mrecg.data import calibration_images, evaluation_batches
from mrecg.optimize.progress import Progress, phase
from mrecg.paper.networks import build, load_weights
from mrecg.planning.estimate import Estimate
from mrecg.quantization import quantize
from mrecg.records.evaluation import Evaluation
from mrecg.records.record import Record
from mrecg.runs.folder import QuantizedModel

__all__ = [
    "DEMO_NETWORK",
    "DemoRow",
    "GroupEnd",
    "JoiningEffect",
    "demo_network",
    "joining_effect",
    "run_demo",
]

DEMO_NETWORK = "mobilenetv2_small"
_IMAGES = 256
_PENALTY = 0.1
"""λ of the rounding regularizer, as in the authors' configuration files for MobileNetV2."""
_BLOCKS, _JOINED = "qdrop blocks", "+ joined (mrecg)"
_STAGES = {
    "round to nearest": ("rtn", {"network.steps": 0}),
    _BLOCKS: ("qdrop", {"network.steps": 0}),
    _JOINED: ("qdrop-mrecg", {"network.steps": 0}),
    "+ whole network": ("qdrop-mrecg", {}),
}
"""Each row of the table has what the one before has, and more: a preset's method, and what it leaves out."""


class DemoRow(NamedTuple):
    """Hold one line of the demo's table; the float network has no `quantized`.

    Attributes:
        name: of the row.
        evaluation: on the packaged test images.
        divergence: of the predictions from the float network's (Kullback-Leibler), for each of these images.
        quantized: the result.
    """

    name: str
    evaluation: Evaluation
    divergence: Float[Tensor, " n"]
    quantized: QuantizedModel | None


class GroupEnd(NamedTuple):
    """Hold the relative loss where a joined group ends, with the same units optimized alone and jointly."""

    units: tuple[str, ...]
    alone: float
    joined: float


class JoiningEffect(NamedTuple):
    """Hold what joining changed, on the same images and with as many steps for every unit.

    Attributes:
        gain: how much smaller the mean divergence from the float network is.
        standard_error: of that mean.
        ends: of the joined groups.
    """

    gain: float
    standard_error: float
    ends: tuple[GroupEnd, ...]


def demo_network() -> nn.Module:
    """Load the packaged float network."""
    model = build(DEMO_NETWORK)
    with as_file(files("mrecg.demo") / f"{DEMO_NETWORK}.safetensors") as path:
        load_weights(model, path)
    return model


def run_demo(
    bits: str, steps: int, seed: int, progress: Callable[[str, Progress | Estimate], None]
) -> list[DemoRow]:
    """Quantize the packaged network in several ways, and evaluate on the packaged test images.

    Args:
        bits: widths as in a preset's name, such as `w2a2`.
        steps: optimizer steps per group.
        seed: of batches, dropping and the choice of calibration images.
        progress: called with the name of the row and what is going on.

    Raises:
        MrecgError: the widths or the steps cannot be used.
    """
    model = demo_network()
    calibration = calibration_images("demo", _IMAGES, seed)
    common = {"seed": seed, "reconstruct.penalty": _PENALTY}
    with phase(functools.partial(progress, "float"), "evaluate"):
        wanted, _ = _predict(model)

    def make_row(name: str, made: nn.Module, quantized: QuantizedModel | None) -> DemoRow:
        predictions, labels = _predict(made)
        hits = predictions.topk(5, dim=1).indices == labels[:, None]
        found = Evaluation(len(labels), int(hits[:, 0].sum()), int(hits.sum()))
        divergence = functional.kl_div(predictions, wanted, reduction="none", log_target=True)
        return DemoRow(name, found, divergence.sum(1), quantized)

    rows = [make_row("float", model, None)]
    for name, (method, settings) in _STAGES.items():
        budget = {"reconstruct.steps": 0 if method == "rtn" else steps}
        recipe = preset(f"{bits}-{method}", {**common, **budget, **settings})
        report = functools.partial(progress, name)
        quantized = quantize(model, calibration, recipe=recipe, progress=report)
        with phase(report, "evaluate"):
            rows.append(make_row(name, quantized.model, quantized))
    return rows


def joining_effect(rows: Iterable[DemoRow]) -> JoiningEffect:
    """Compare MRECG with blocks: the answers image by image, and the losses where joined groups end."""
    found = {row.name: row for row in rows}
    gains = found[_BLOCKS].divergence - found[_JOINED].divergence
    blocks, joined = (_losses(found[name].quantized) for name in (_BLOCKS, _JOINED))
    ends = tuple(
        GroupEnd(group, blocks[group[-1]], joined[group[-1]])
        for group in _record(found[_JOINED].quantized).plan.joined
    )
    return JoiningEffect(
        gain=float(gains.mean()),
        standard_error=float(gains.std()) / len(gains) ** 0.5,
        ends=ends,
    )


@torch.inference_mode()
def _predict(model: nn.Module) -> tuple[Float[Tensor, "n classes"], Tensor]:
    """Return the logarithms of the predictions for the packaged test images, and their labels."""
    batches = list(evaluation_batches("demo"))
    made = [model.eval()(images).log_softmax(1) for images, _ in batches]
    return torch.cat(made), torch.cat([labels for _, labels in batches])


def _losses(quantized: QuantizedModel | None) -> dict[str, float]:
    return {unit.name: unit.relative_loss for unit in _record(quantized).units}


def _record(quantized: QuantizedModel | None) -> Record:
    assert quantized is not None, "only the float network has no record"
    return quantized.record
