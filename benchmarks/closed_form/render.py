"""The table of `docs/closed-form.md`."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.closed_form.measure import VARIANTS
from benchmarks.store import Result, Store
from benchmarks.tables import by_key, folded, table, write_between_marks

__all__ = ["closed_form_rows", "closed_form_store", "write_closed_form"]

KEY = ("network", "bits", "variant", "images", "set")
COLUMNS = "network | bits | rounded | KL | better by | same class as float (%) | CPU seconds"
_FIRST = "steps"
"""The variant that the others are compared with."""


def closed_form_store(folder: Path) -> Store:
    """Return the results."""
    return Store("closed_form", KEY, folder)


def closed_form_rows(results: Sequence[Result]) -> list[tuple[object, ...]]:
    """Return a row for each way of rounding: means over sets of images, and the difference to 20 steps on the same set."""
    rows: list[tuple[object, ...]] = []
    for (network, bits), cells in by_key(results, "network", "bits").items():
        found = {name: same for (name,), same in by_key(cells, "variant").items()}
        first = {cell["set"]: cell["divergence"] for cell in found.get(_FIRST, [])}
        for name in [one for one in VARIANTS if one in found]:
            same = found[name]
            kl = statistics.mean(cell["divergence"] for cell in same)
            agreement = statistics.mean(cell["agreement"] for cell in same)
            seconds = statistics.median(cell["cpu_seconds"] for cell in same)
            rows.append(
                (
                    network,
                    bits,
                    VARIANTS[name].about,
                    f"{kl:.5f} ({len(same)})",
                    "" if name == _FIRST else _better_by(same, first),
                    f"{agreement:.2f}",
                    f"{seconds:.1f}",
                )
            )
    return rows


def _better_by(cells: Sequence[Result], first: Mapping[Any, float]) -> str:
    gains = [first[cell["set"]] - cell["divergence"] for cell in cells if cell["set"] in first]
    if len(gains) < 2:
        return ""
    error = statistics.stdev(gains) / len(gains) ** 0.5
    return f"{statistics.mean(gains):+.5f} ± {error:.5f}"


def write_closed_form(folder: Path, page: Path) -> int:
    """Write the table into the page; return how many results it shows."""
    results = closed_form_store(folder).read()
    if not results:
        raise SystemExit(f"There are no results in {folder}; run the benchmark first.")
    commits = sorted({result["commit"] for result in results})
    shown = folded("\n".join(table(COLUMNS, closed_form_rows(results))))
    write_between_marks(page, ["", shown, "", f"Commits: {', '.join(commits)}.", ""])
    return len(results)
