"""Targets of accuracy at a budget: which recipe is the cheapest that holds one, or that none does."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

import mrecg
from benchmarks.accuracy.cells import NETWORKS
from benchmarks.accuracy.measure import answers, percent_equal
from benchmarks.held_out.measure import HELD_OUT, Images
from benchmarks.provenance import commit
from mrecg.data.fashion_mnist import load_split
from mrecg.paper.published import PAPER_NETWORKS

__all__ = ["measure_target"]


def measure_target(model: nn.Module, folder: Path, cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return every try for a target, and what the kept model does on the test images, which decided nothing.

    Args:
        model: the float network.
        folder: of the data set's files.
        cell: network, bits, budget, largest drop, steps, images and seed.
    """
    images = Images(folder)
    judging, labels = images[-HELD_OUT:], images.labels[-HELD_OUT:]
    recipe = mrecg.preset(
        f"{cell['bits']}-qdrop",
        {
            "seed": cell["seed"],
            "reconstruct.steps": cell["steps"],
            "reconstruct.penalty": PAPER_NETWORKS[NETWORKS[cell["network"]]].penalty,
        },
    )
    started = time.process_time()
    found = mrecg.quantize_to(
        model,
        images[: cell["images"]],
        max_drop=cell["drop"],
        validation=list(zip(judging.split(250), labels.split(250), strict=True)),
        recipe=recipe,
        budget=cell["budget"],
        progress=False,
    )
    target = found.record.target
    assert target is not None
    test, classes = load_split("test", folder)
    top1 = [
        percent_equal(answers(one, test).argmax(1), classes) for one in (model.eval(), found.model)
    ]
    return {
        "target": target.model_dump(mode="json"),
        "held": target.is_held,
        "test_drop": top1[0] - top1[1],
        "cpu_seconds": time.process_time() - started,
        "commit": commit(),
        "recipe": recipe.model_dump(mode="json"),
        "environment": found.record.environment,
    }
