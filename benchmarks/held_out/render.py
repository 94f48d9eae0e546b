"""The tables of `docs/choices.md`."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.held_out.results import held_out_store, judges_store
from benchmarks.held_out.variants import CODES, JOINS, LONG, PRECISIONS, STOPS, Variant
from benchmarks.store import Result
from benchmarks.tables import by_key, folded, table, with_lead

__all__ = ["judges_rows", "variant_rows", "write_choices"]

HEADER = """# Choices, and what they are worth

Judged on 4,000 training images of Fashion-MNIST that calibrated nothing, without labels: *KL* is the mean Kullback-Leibler divergence
of the predictions from the float network's, lower is nearer. Mean over seeds; *better by* is the mean over seeds of the
difference to the table's first row at the same seed ± its standard error. Test images decide nothing here.
Written by `python -m benchmarks.held_out render` from `benchmarks/results/held_out.jsonl`, where each result names its commit,
seed, device, versions and whole recipe.
"""
JOINS_HEADER = """
## Choosing joins

QDrop, nothing for the network as a whole. Every unit gets the same steps on the way to the result: the short run for the losses
counts, and a joined group has the steps of its units. Trying a join costs as many steps again, which the row *1.75 times the
steps* gives the blocks, too. *Group ends* is the mean relative loss where the groups of the row end, blocks → row, at the same
positions.
"""
CODES_HEADER = """
## What the network as a whole learns

After the groups, 500 steps that learn codes and scales, or what the row says instead.
"""
STOPS_HEADER = """
## When a group's steps end

QDrop, and 125 steps of the network as a whole. At every twentieth of a group's steps its roundings are made hard and its error is
measured on the images that are set aside; the group ends when none of the last three errors was lower than those before by half a
percent. The penalty, which decides the roundings, then has not done its work: it is spread over all steps.
"""
PRECISIONS_HEADER = """
## In which precision steps multiply

The whole method. *bfloat16* rounds what convolutions and products read to 8 bits, in the steps of the groups and of the network as a
whole, but for grouped convolutions, which stay float32 on a CPU; what is learned, and everything that is measured, is float32.
"""
JUDGES_COLUMNS = (
    "images | wrong | mean distance from the true gain (points) | mean difference (points)"
)
JUDGES_HEADER = """
## Which images tell whether a join helps

Every join of *measured gain* was measured on four sets of images: the mirrored calibration images, 32 images that were set aside,
the calibration images themselves, and the 4,000 held-out images, the truth.
*Wrong* is how often the sign of the gain differs from the truth's.
"""


def _ends(cells: Sequence[Result], blocks: Mapping[Any, Result]) -> str:
    """Return the mean relative loss at the ends of the cells' joined groups, of blocks and of the cells."""
    sides: tuple[list[float], list[float]] = ([], [])
    for cell in cells:
        single = blocks.get(cell["seed"])
        for group in cell["joined"] if single else ():
            for side, result in zip(sides, (single, cell), strict=True):
                assert result is not None
                side.append(result["losses"][group[-1]])
    if not sides[0]:
        return ""
    return " → ".join(f"{100 * statistics.mean(side):.1f} %" for side in sides)


def _seconds(cells: Sequence[Result]) -> str:
    return f"{statistics.median(sum(cell['seconds'].values()) for cell in cells):.0f}"


def _better_by(cells: Sequence[Result], first: Mapping[Any, Result]) -> str:
    gains = [
        first[cell["seed"]]["divergence"] - cell["divergence"]
        for cell in cells
        if cell["seed"] in first and cell is not first[cell["seed"]]
    ]
    if len(gains) < 2:
        return ""
    error = statistics.stdev(gains) / len(gains) ** 0.5
    digits = _digits(cells)
    return f"{statistics.mean(gains):+.{digits}f} ± {error:.{digits}f}"


def _digits(cells: Sequence[Result]) -> int:
    """Return after how many digits a divergence ends."""
    return 4 if statistics.mean(cell["divergence"] for cell in cells) > 1e-3 else 6


def variant_rows(
    results: Sequence[Result],
    variants: Mapping[str, Variant],
    joins: bool,
    cost: Callable[[Sequence[Result]], str] | None = None,
) -> list[tuple[object, ...]]:
    rows = []
    keys = ("network", "bits", "steps", "images")
    chosen = [result for result in results if result["variant"] in variants]
    for group, cells in by_key(chosen, *keys).items():
        found = {name: same for (name,), same in by_key(cells, "variant").items()}
        first = {cell["seed"]: cell for cell in found.get(next(iter(variants)), [])}
        for name in variants:
            if name not in found:
                continue
            same = found[name]
            mean = statistics.mean(cell["divergence"] for cell in same)
            kl = f"{mean:.{_digits(same)}f} ({len(same)})"
            agreement = f"{statistics.mean(cell['agreement'] for cell in same):.2f}"
            more: tuple[str, ...] = ()
            if joins:
                tried = [join["kept"] for cell in same for join in cell["joins"]]
                kept = f"{sum(tried)} of {len(tried)}" if tried else ""
                more = (_ends(same, first), kept)
            figures = (kl, _better_by(same, first), agreement, *more, (cost or _seconds)(same))
            rows.append((*group, variants[name].about, *figures))
    return rows


def judges_rows(results: Sequence[Result]) -> list[tuple[object, ...]]:
    joins = [join for result in results for join in result["joins"]]
    rows: list[tuple[object, ...]] = []
    for name in ("mirrored", "slice", "tuned"):
        wrong = sum((join[name] > 0) != (join["truth"] > 0) for join in joins)
        off = statistics.mean(abs(join[name] - join["truth"]) for join in joins)
        bias = statistics.mean(join[name] - join["truth"] for join in joins)
        rows.append((name, f"{wrong} of {len(joins)}", f"{100 * off:.1f}", f"{100 * bias:+.1f}"))
    return rows


def _stops(keys: str, results: Sequence[Result]) -> list[str]:
    if not any(result["variant"] in STOPS for result in results):
        return []
    head = f"{keys} | steps end | KL | better by | same class as float (%) | steps taken per unit"
    return [STOPS_HEADER, *table(head, variant_rows(results, STOPS, False, _steps_taken))]


def _precisions(keys: str, results: Sequence[Result]) -> list[str]:
    if not any(result["variant"] in PRECISIONS for result in results):
        return []
    head = f"{keys} | precision | KL | better by | same class as float (%) | seconds"
    return [PRECISIONS_HEADER, *table(head, variant_rows(results, PRECISIONS, joins=False))]


def _steps_taken(cells: Sequence[Result]) -> str:
    """Return the mean over units and cells."""
    means = [statistics.mean(cell["steps_taken"]) for cell in cells if "steps_taken" in cell]
    return f"{statistics.mean(means):.0f}" if means else ""


def _lead(results: Sequence[Result]) -> str:
    """Return the page in a sentence: what trying every join changes on each network."""
    parts = []
    for (network, bits), cells in by_key(results, "network", "bits").items():
        found = by_key(cells, "variant", "steps", "images")
        sides = [
            {
                cell["seed"]: cell
                for (name, *_), same in found.items()
                if name == variant
                for cell in same
            }
            for variant in ("blocks", "gain")
        ]
        seeds = sides[0].keys() & sides[1].keys()
        if seeds:
            means = [statistics.mean(side[seed]["divergence"] for seed in seeds) for side in sides]
            parts.append(f"{means[0]:.3f} → {means[1]:.3f} on {network} at {bits}")
    return f"Trying every join brings the answers nearer to the float network's (KL): {'; '.join(parts)}."


def write_choices(folder: Path, page: Path) -> int:
    """Write the page; return how many results it shows."""
    results = held_out_store(folder).read()
    judged = judges_store(folder).read()
    if not results:
        raise SystemExit(f"There are no results in {folder}; run the benchmark first.")
    keys = "network | bits | steps | images"
    commits = sorted({result["commit"] for result in (*results, *judged)})
    sections = [
        with_lead(HEADER, _lead(results)),
        JOINS_HEADER,
        *table(
            f"{keys} | joined by | KL | better by | same class as float (%) | group ends | kept | seconds",
            variant_rows(results, JOINS, joins=True),
        ),
        CODES_HEADER,
        *table(
            f"{keys} | learned | KL | better by | same class as float (%) | seconds",
            variant_rows(results, CODES | LONG, joins=False),
        ),
        *(_stops(keys, results)),
        *(_precisions(keys, results)),
        *([JUDGES_HEADER, *table(JUDGES_COLUMNS, judges_rows(judged))] if judged else []),
        f"\nCommits: {', '.join(commits)}.",
    ]
    page.write_text(folded("\n".join(sections)) + "\n", encoding="utf-8")
    return len(results) + len(judged)
