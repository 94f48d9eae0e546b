"""The demo: the float network against rounding to nearest, blocks and MRECG."""

from collections.abc import Callable
from importlib.resources import as_file, files
from typing import NamedTuple

from torch import nn

from mrecg.config.presets import preset
from mrecg.data import calibration_images, evaluation_batches
from mrecg.evaluation import evaluate
from mrecg.paper.networks import build, load_weights
from mrecg.pipeline import Estimate, Progress, quantize
from mrecg.planning.joint_plan import make_plan
from mrecg.records.evaluation import Evaluation
from mrecg.records.plan import Plan
from mrecg.records.record import Record
from mrecg.runs.folder import QuantizedModel

__all__ = ["DEMO_NETWORK", "DemoRow", "demo_network", "run_demo"]

DEMO_NETWORK = "mobilenetv2_small"
_METHOD = "qdrop"
_IMAGES = 256
_PENALTY = 0.1
"""λ of the rounding regularizer, as in the authors' configuration files for MobileNetV2."""


class DemoRow(NamedTuple):
    """Hold one line of the demo's table; the float network has no `quantized`."""

    name: str
    evaluation: Evaluation
    quantized: QuantizedModel | None


def demo_network() -> nn.Module:
    """Load the packaged float network."""
    model = build(DEMO_NETWORK)
    with as_file(files("mrecg.demo") / f"{DEMO_NETWORK}.safetensors") as path:
        load_weights(model, path)
    return model


def run_demo(
    bits: str, steps: int, seed: int, progress: Callable[[str, Progress | Estimate], None]
) -> list[DemoRow]:
    """Quantize the packaged network three times and evaluate on the packaged test images.

    The plan of MRECG comes from the unit losses of the run with single blocks, so it costs no further run.

    Args:
        bits: widths as in a preset's name, such as `w2a4`.
        steps: optimizer steps per group.
        seed: of batches, dropping and the choice of calibration images.
        progress: called with the name of the row and what is going on.

    Raises:
        MrecgError: the widths or the steps cannot be used.
    """
    model = demo_network()
    calibration = calibration_images("demo", _IMAGES, seed)
    common = {"seed": seed, "reconstruct.penalty": _PENALTY}

    def make_row(name: str, method: str, steps: int, blocks: Record | None = None) -> DemoRow:
        recipe = preset(f"{bits}-{method}", common | {"reconstruct.steps": steps})
        plan: Plan | None = None
        if blocks is not None:
            plan = make_plan(blocks.units, recipe.plan, [unit.loss for unit in blocks.units])
        quantized = quantize(
            model, calibration, recipe=recipe, plan=plan, progress=lambda e: progress(name, e)
        )
        found = evaluate(quantized.model, evaluation_batches("demo"))
        return DemoRow(name, found, quantized)

    before = DemoRow("float", evaluate(model, evaluation_batches("demo")), None)
    nearest = make_row("round to nearest", "rtn", 0)
    blocks = make_row(f"{_METHOD} blocks", _METHOD, steps)
    assert blocks.quantized is not None
    record = blocks.quantized.record
    return [
        before,
        nearest,
        blocks,
        make_row(f"{_METHOD} + mrecg", f"{_METHOD}-mrecg", steps, record),
    ]
