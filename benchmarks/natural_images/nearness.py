"""How near a quantized network is to the float one on photographs that calibrated nothing, and what that cost."""

import time

from torch import Tensor, nn
from torch.nn.functional import kl_div

import mrecg
from benchmarks.accuracy.measure import answers, percent_equal
from benchmarks.provenance import commit
from benchmarks.store import Result
from mrecg.config.recipe import Recipe

__all__ = ["BATCH", "nearness"]

BATCH = 32
"""Crops that run at once where networks are compared."""


def nearness(
    recipe: Recipe, model: nn.Module, calibration: Tensor, held_out: Tensor, expected: Tensor
) -> Result:
    """Quantize, and compare with the float network's logits on the held-out crops."""
    started = time.process_time()
    quantized = mrecg.quantize(model, calibration, recipe=recipe)
    seconds = time.process_time() - started
    found, record = answers(quantized.model, held_out, BATCH), quantized.record
    predictions = found.log_softmax(1), expected.log_softmax(1)
    return {
        "agreement": percent_equal(found.argmax(1), expected.argmax(1)),
        "divergence": float(kl_div(*predictions, reduction="batchmean", log_target=True)),
        "logit_difference": float((found - expected).abs().mean()),
        "losses": {unit.name: unit.relative_loss for unit in record.units},
        "cpu_seconds": seconds,
        "seconds": record.seconds,
        "commit": commit(),
        "recipe": recipe.model_dump(mode="json"),
        "environment": record.environment,
    }
