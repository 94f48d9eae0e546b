"""The results about reliability, by what was tried."""

from pathlib import Path
from typing import Any

import torch

from benchmarks.provenance import commit
from benchmarks.store import Store
from mrecg.runs.folder import environment

__all__ = ["KEYS", "origin", "reliability_store"]

KEYS = {
    "kills": ("seed",),
    "faults": ("operation", "first"),
    "inputs": ("kind", "first"),
    "growth": ("runs",),
    "costs": ("network", "steps", "images"),
}


def reliability_store(name: str, folder: Path) -> Store:
    """Return the results of one kind."""
    return Store(f"reliability_{name}", KEYS[name], folder)


def origin() -> dict[str, Any]:
    """Return what every result says about where it comes from."""
    return {"commit": commit(), "environment": environment(torch.device("cpu"))}
