"""The results of comparisons on held-out training images."""

from pathlib import Path

from benchmarks.store import Store

__all__ = ["held_out_store", "judges_store"]

KEY = ("network", "bits", "variant", "steps", "images", "seed")


def held_out_store(folder: Path) -> Store:
    """Return the results of variants."""
    return Store("held_out", KEY, folder)


def judges_store(folder: Path) -> Store:
    """Return the gains of joins by the images that measured them."""
    return Store("judges", KEY, folder)
