"""How long sensitivity takes on a network of usual size; weights and images are random, which changes no time."""

import time
from collections.abc import Mapping
from typing import Any

import torch

import mrecg
from benchmarks.provenance import commit
from mrecg.mixed_precision.measurement import USUAL_WIDTHS
from mrecg.paper.networks import build
from mrecg.runs.folder import environment

__all__ = ["time_sensitivity"]


def time_sensitivity(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return the seconds of the usual widths.

    Args:
        cell: network, images and their size.
    """
    torch.manual_seed(0)
    model = build(cell["network"]).eval()
    images = torch.randn(cell["images"], 3, cell["size"], cell["size"])
    started = time.perf_counter(), time.process_time()
    found = mrecg.sensitivity(model, images, "w4a8-rtn", progress=False)
    return {
        "units": len(found.units),
        "widths": USUAL_WIDTHS,
        "seconds": time.perf_counter() - started[0],
        "cpu_seconds": time.process_time() - started[1],
        "commit": commit(),
        "environment": environment(torch.device("cpu")),
    }
