"""The accuracy of our code and of the authors'."""

import json
from pathlib import Path
from typing import Any

from benchmarks.store import Store

__all__ = ["accuracy_store", "authors_results"]

KEY = ("network", "bits", "method", "steps", "images", "seed", "without", "schedule", "code_steps")


def accuracy_store(folder: Path) -> Store:
    """Return the results of this benchmark; `without` names the choice that was taken away, `schedule` another than `fast`;
    `code_steps` the steps in which the network as a whole learns codes, where it does.
    """
    return Store("accuracy", KEY, folder)


def authors_results() -> dict[str, Any]:
    """Return what the authors' code reached, by steps, network, widths and method, and how long it took."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("authors.json").read_text())
    return found
