"""The table of `docs/bits.md`."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.mixed_precision.measure import SPREADS
from benchmarks.store import Result, Store
from benchmarks.tables import by_key, summary, table, write_between_marks

__all__ = ["spread_rows", "spreads_store", "write_bits"]

KEY = ("network", "bits", "spread", "steps", "images", "seed")
COLUMNS = "network | bits | spread | bytes | KL | better by | same class as float (%) | top-1 (%) | seconds"


def spreads_store(folder: Path) -> Store:
    """Return the results."""
    return Store("mixed_precision", KEY, folder)


def spread_rows(results: Sequence[Result]) -> list[tuple[object, ...]]:
    """Return a row for each spread: means over seeds, and the difference to the uniform width at the same seed."""
    rows: list[tuple[object, ...]] = []
    for (network, bits), cells in by_key(results, "network", "bits").items():
        found = {name: same for (name,), same in by_key(cells, "spread").items()}
        first = {cell["seed"]: cell["divergence"] for cell in found.get("uniform", [])}
        for name in [one for one in SPREADS if one in found]:
            same = found[name]
            kl = statistics.mean(cell["divergence"] for cell in same)
            times = [sum(one["seconds"].values()) + one["sensitivity_seconds"] for one in same]
            rows.append(
                (
                    network,
                    bits,
                    SPREADS[name],
                    f"{statistics.mean(cell['bytes'] for cell in same):,.0f}",
                    f"{kl:.5f} ({len(same)})",
                    "" if name == "uniform" else _better_by(same, first),
                    summary([cell["agreement"] for cell in same]),
                    summary([cell["top1"] for cell in same]),
                    f"{statistics.median(times):.0f}",
                )
            )
    return rows


def _better_by(cells: Sequence[Result], first: Mapping[Any, float]) -> str:
    gains = [first[cell["seed"]] - cell["divergence"] for cell in cells if cell["seed"] in first]
    if len(gains) < 2:
        return ""
    error = statistics.stdev(gains) / len(gains) ** 0.5
    return f"{statistics.mean(gains):+.5f} ± {error:.5f}"


def write_bits(folder: Path, page: Path) -> int:
    """Write the table into the page; return how many results it shows."""
    results = spreads_store(folder).read()
    if not results:
        raise SystemExit(f"There are no results in {folder}; run the benchmark first.")
    commits = sorted({result["commit"] for result in results})
    write_between_marks(
        page, ["", *table(COLUMNS, spread_rows(results)), "", f"Commits: {', '.join(commits)}.", ""]
    )
    return len(results)
