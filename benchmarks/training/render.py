"""The table of docs/how-to/training.md."""

from pathlib import Path

from benchmarks.store import Result, Store
from benchmarks.tables import table, write_between_marks

__all__ = ["training_store", "write_page"]


_KEY = ("network", "preset", "steps", "images", "train_images", "test_images", "rate")


def training_store(folder: Path) -> Store:
    """Return the results."""
    return Store("training", _KEY, folder)


def write_page(results: Path, page: Path) -> int:
    """Write the table between the marks of the page; return how many results it shows."""
    found = training_store(results).read()
    rows = [
        (
            f"{one['network']}, {one['preset']}, {_steps(one)}{one['images']} images",
            f"{one['train_images']:,}",
            f"{one['float']:.2f}",
            f"{one['before']:.2f}",
            f"{one['after']:.2f}",
            f"{100 * one['changed']:.0f} %",
            f"{one['seconds']['epoch'] / 60:.0f}",
        )
        for one in found
    ]
    heads = "run | training images | float | quantized | after an epoch | codes changed | minutes of training"
    write_between_marks(page, [*table(heads, rows), ""] if rows else [])
    return len(rows)


def _steps(result: Result) -> str:
    return "" if result["steps"] is None else f"{result['steps']} steps, "
