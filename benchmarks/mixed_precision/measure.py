"""A mean of so many weight bits, spread in several ways: how near each is to the float network."""

import time
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.functional import kl_div

import mrecg
from benchmarks.accuracy.cells import NETWORKS
from benchmarks.accuracy.measure import answers, percent_equal
from benchmarks.held_out.measure import HELD_OUT, Images
from benchmarks.provenance import commit
from mrecg.config.width_rules import with_width_rules
from mrecg.data.fashion_mnist import load_split
from mrecg.paper.published import PAPER_NETWORKS

__all__ = ["SPREADS", "measure_spread"]

SPREADS = {
    "uniform": "the same width everywhere",
    "nearest": "mixed, harm of rounding to nearest",
    "reconstructed": "mixed, harm after 50 steps of each layer alone",
}
"""How the bits are spread over the layers."""
_AFTER = {"nearest": 0, "reconstructed": 50}
_WIDTHS = (2, 3, 4, 5, 6, 8)


def measure_spread(model: nn.Module, folder: Path, cell: dict[str, Any]) -> dict[str, Any]:
    """Choose widths, quantize, and compare with the float network on held-out training images, and on the test images.

    Args:
        model: the float network.
        folder: of the data set's files.
        cell: network, bits, spread, steps, images and seed.
    """
    given = Images(folder)
    calibration = given[: cell["images"]]
    recipe = mrecg.preset(
        f"{cell['bits']}-qdrop",
        {
            "seed": cell["seed"],
            "reconstruct.steps": cell["steps"],
            "reconstruct.penalty": PAPER_NETWORKS[NETWORKS[cell["network"]]].penalty,
        },
    )
    started, chosen, found = time.perf_counter(), None, None
    if cell["spread"] in _AFTER:
        after = _AFTER[cell["spread"]]
        found = mrecg.sensitivity(
            model, calibration, recipe, weight_bits=_WIDTHS, after=after, progress=False
        )
        chosen = mrecg.choose_bits(found, f"{recipe.weight.bits}bits")
        recipe = with_width_rules(recipe, chosen.overrides())
    seconds = time.perf_counter() - started
    quantized = mrecg.quantize(model, calibration, recipe=recipe, progress=False)
    held_out = given[-HELD_OUT:]
    ours, wanted = answers(quantized.model, held_out), answers(model.eval(), held_out)
    predictions = ours.log_softmax(1), wanted.log_softmax(1)
    images, labels = load_split("test", folder)
    record = quantized.record
    assert record.size is not None
    return {
        "divergence": float(kl_div(*predictions, reduction="batchmean", log_target=True)),
        "agreement": percent_equal(ours.argmax(1), wanted.argmax(1)),
        "top1": percent_equal(answers(quantized.model, images).argmax(1), labels),
        "bytes": record.size.quantized_bytes,
        "widths": {} if chosen is None else {one.name: one.bits for one in chosen.widths},
        "wholes": [] if found is None else [one.model_dump() for one in found.wholes],
        "sensitivity_seconds": seconds,
        "seconds": record.seconds,
        "commit": commit(),
        "recipe": recipe.model_dump(mode="json"),
        "environment": record.environment,
    }
