"""The paper's claim on one's own machine: float, rounding to nearest, blocks and MRECG, on packaged images."""

from collections.abc import Callable
from importlib.resources import as_file, files
from typing import NamedTuple

from torch import nn

from mrecg.config.presets import preset
from mrecg.data import calibration_images, evaluation_batches
from mrecg.evaluation import Evaluation, evaluate
from mrecg.paper.networks import build, load_weights
from mrecg.pipeline import Progress, quantize
from mrecg.planning.joint_plan import make_plan
from mrecg.runs.folder import QuantizedModel

__all__ = ["DEMO_NETWORK", "DemoRow", "demo_network", "run_demo"]

DEMO_NETWORK = "mobilenetv2_small"
METHOD = "qdrop"
IMAGES = 256
PENALTY = 0.1
"""The papers' λ for MobileNetV2."""


class DemoRow(NamedTuple):
    """One line of the demo's table; the float network has no `quantized`."""

    name: str
    evaluation: Evaluation
    quantized: QuantizedModel | None


def demo_network() -> nn.Module:
    """The packaged float network."""
    model = build(DEMO_NETWORK)
    with as_file(files("mrecg.demo") / f"{DEMO_NETWORK}.safetensors") as path:
        load_weights(model, path)
    return model


def run_demo(
    bits: str, steps: int, seed: int, progress: Callable[[str, Progress], None]
) -> list[DemoRow]:
    """Quantize the packaged network three times and evaluate on the packaged test images.

    The plan of MRECG comes from the unit losses of the run without joining, at no further cost.

    Args:
        bits: widths as in a preset's name, such as `w2a4`.
        steps: optimisation steps per group.
        seed: of batches, dropping and the choice of calibration images.
        progress: called with the name of the row and what is going on.

    Raises:
        MrecgError: the widths or the steps cannot be used.
    """
    model = demo_network()
    calibration = calibration_images("demo", IMAGES, seed)
    rows = [DemoRow("float", evaluate(model, evaluation_batches("demo")), None)]

    def add(name: str, method: str, joined: bool) -> QuantizedModel:
        settings = {
            "seed": seed,
            "reconstruct.steps": 0 if method == "rtn" else steps,
            "reconstruct.penalty": PENALTY,
        }
        recipe = preset(f"{bits}-{method}{'-mrecg' if joined else ''}", settings)
        plan = None
        if joined:
            blocks = rows[-1].quantized
            assert blocks is not None
            losses = [unit.loss for unit in blocks.record.units]
            plan = make_plan(blocks.record.units, recipe.plan, losses)
        quantized = quantize(
            model, calibration, recipe=recipe, plan=plan, progress=lambda e: progress(name, e)
        )
        rows.append(DemoRow(name, evaluate(quantized.model, evaluation_batches("demo")), quantized))
        return quantized

    add("round to nearest", "rtn", joined=False)
    add(f"{METHOD} blocks", METHOD, joined=False)
    add(f"{METHOD} + mrecg", METHOD, joined=True)
    return rows
