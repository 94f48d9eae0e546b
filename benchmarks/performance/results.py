"""The results about speed, memory and growth, by what was measured."""

from pathlib import Path

from benchmarks.store import Store

__all__ = ["performance_store"]

KEYS = {
    "step": ("network", "side", "method", "without", "processor"),
    "network_step": ("network", "side", "batch"),
    "window_step": ("network", "side", "batch", "window"),
    "paired": ("network", "side", "method", "against"),
    "pipeline": ("network", "bits", "method", "steps"),
    "default_run": ("network", "side", "images", "preset", "against", "processor"),
    "memory": ("network", "side", "images", "steps"),
    "range_memory": ("inputs", "outputs"),
    "kept_memory": ("network", "side", "images", "steps"),
    "rounding": ("network", "side", "images"),
    "first_call": (),
    "threads": ("work", "side", "images"),
    "scaling": ("units", "images"),
    "gpu": (
        *("device", "network", "side", "images", "preset", "steps"),
        *("precision", "cuda_graphs", "without"),
    ),
}


def performance_store(name: str, folder: Path) -> Store:
    """Return the results of one kind."""
    return Store(name, KEYS[name], folder)
