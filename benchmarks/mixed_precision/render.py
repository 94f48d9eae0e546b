"""The tables of `docs/bits.md`."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.mixed_precision.measure import SPREADS
from benchmarks.store import Result, Store
from benchmarks.tables import by_key, summary, table, write_between_marks

__all__ = ["spread_rows", "spreads_store", "targets_store", "timing_store", "write_bits"]

KEY = ("network", "bits", "spread", "steps", "images", "seed")
COLUMNS = "network | bits | spread | bytes | KL | better by | same class as float (%) | top-1 (%) | seconds"

TARGETS_COLUMNS = "network | budget | largest drop | result | tries: drop | top-1 lost on test images | CPU seconds"
TARGETS_HEADER = """
### Targets

`--max-drop` at a budget: top-1 on 4,000 labeled training images that calibrated nothing, so one image is 0.025 points; 256
calibration images, at most {steps} steps. The first try that holds the target is kept, or the nearest where none does.
"""
TIMING_COLUMNS = "network | images | size | units × widths | threads | seconds | CPU seconds"
TIMING_HEADER = """
### Time of a sensitivity
"""


def spreads_store(folder: Path) -> Store:
    """Return the results."""
    return Store("mixed_precision", KEY, folder)


def targets_store(folder: Path) -> Store:
    """Return the tries for targets of accuracy."""
    key = ("network", "bits", "budget", "drop", "steps", "images", "seed")
    return Store("targets", key, folder)


def timing_store(folder: Path) -> Store:
    """Return the seconds of sensitivities."""
    return Store("sensitivity_time", ("network", "images", "size", "threads"), folder)


def _target_row(result: Result) -> tuple[object, ...]:
    target = result["target"]
    tries = [f"{one['name']}: {one['drop']:.2f}" for one in target["attempts"]]
    kept = target["attempts"][target["kept"]]["name"]
    return (
        result["network"],
        result["budget"],
        f"{result['drop']:g}",
        f"held by {kept}" if result["held"] else f"none holds it; nearest: {kept}",
        "; ".join(tries),
        f"{result['test_drop']:.2f}",
        f"{result['cpu_seconds']:.0f}",
    )


def _timing_row(result: Result) -> tuple[object, ...]:
    return (
        result["network"],
        result["images"],
        f"{result['size']}²",
        f"{result['units']} × {len(result['widths'])}",
        result["threads"],
        f"{result['seconds']:.0f}",
        f"{result['cpu_seconds']:.0f}",
    )


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
    """Write the tables into the page; return how many results they show."""
    results = spreads_store(folder).read()
    if not results:
        raise SystemExit(f"There are no results in {folder}; run the benchmark first.")
    lines = ["", *table(COLUMNS, spread_rows(results))]
    targets, times = targets_store(folder).read(), timing_store(folder).read()
    if targets:
        steps = max(one["steps"] for one in targets)
        lines += [
            TARGETS_HEADER.format(steps=steps),
            *table(TARGETS_COLUMNS, map(_target_row, targets)),
        ]
    if times:
        lines += [TIMING_HEADER, *table(TIMING_COLUMNS, map(_timing_row, times))]
    found = (*results, *targets, *times)
    commits = sorted({result["commit"] for result in found})
    write_between_marks(page, [*lines, "", f"Commits: {', '.join(commits)}.", ""])
    return len(found)
