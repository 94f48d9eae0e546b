"""The tables of `docs/efficientnet-lite0.md`."""

import statistics
from pathlib import Path

from benchmarks.accuracy.cells import METHODS
from benchmarks.natural_images.budgets import budgets_store, budgets_table
from benchmarks.store import Result, Store
from benchmarks.tables import by_key, folded, provenance, summary, table, write_between_marks

__all__ = ["agreement_store", "photographs_store", "write_agreement"]


def agreement_store(folder: Path) -> Store:
    """Return how often quantized networks agree with the float one."""
    key = ("network", "bits", "method", "steps", "images", "seed")
    return Store("natural_images", key, folder)


def photographs_store(folder: Path) -> Store:
    """Return what the float network says about each photograph."""
    return Store("photographs", ("network", "package", "file"), folder)


def agreement_table(results: list[Result]) -> list[str]:
    """Return how far quantized networks keep the float network's answers on photographs."""
    rows = []
    for (bits,), cells in by_key(results, "bits").items():
        runs = by_key(cells, "method", "steps")
        for method, steps in sorted(runs, key=lambda key: (METHODS.index(key[0]), key[1])):
            same = runs[method, steps]
            joins = ", ".join("+".join(group) for group in same[0]["joined"])
            agreement = summary([cell["agreement"] for cell in same])
            difference = statistics.mean(cell["logit_difference"] for cell in same)
            rows.append((bits, method, steps, agreement, f"{difference:.2f}", joins))
    first = results[0]
    columns = "bits | method | steps | agree with float (%) | mean logit difference | joined"
    return [
        *table(columns, rows),
        "",
        f"{first['images']} calibration crops, {first['held_out']} held-out crops, batches of {first['batch_size']}; "
        f"the float network's logits have a standard deviation of {first['logit_std']:.2f}.",
    ]


def _lead(results: list[Result]) -> str:
    """Return the page in a sentence: to nearest and the best method, at the fewest bits."""
    methods = by_key(results, "bits", "method")
    bits = min(bits for bits, _ in methods)
    means = {
        method: statistics.mean(cell["agreement"] for cell in cells)
        for (of_bits, method), cells in methods.items()
        if of_bits == bits
    }
    best = max(means, key=means.__getitem__)
    return (
        f"At {bits}, {best} gives the float network's class for {means[best]:.1f} % of the held-out crops, "
        f"rounding to nearest for {means['rtn']:.1f} %."
    )


def photograph_table(photographs: list[Result]) -> list[str]:
    """Return what the float network says about each photograph."""
    labelled = [row for row in photographs if row["label"] is not None]
    right = sum(row["label"] == row["class"] for row in labelled)
    rows = [
        (
            row["file"],
            "" if row["label"] is None else row["label"],
            row["class"],
            f"{row['probability']:.2f}",
        )
        for row in photographs
    ]
    found = f"{right} of the {len(labelled)} images of ImageNet get their label."
    return [found, "", *table("photograph | label | class | probability", rows)]


def _budgets(folder: Path) -> list[str]:
    results = budgets_store(folder).read()
    if not results:
        return []
    lead = (
        "The whole method on crops of 224², compared on the held-out crops; *images seen* counts the images of all steps of a "
        "group and of the network as a whole. KL is the mean divergence from the float network ± its standard error over seeds. "
        "All calibration crops come from half of the photographs, those that judge the network as a whole, too: what it learns of "
        "these few photographs by heart passes the judge. Where weights have 2 bits, learning codes does that, and learning scales "
        "alone comes nearer."
    )
    return ["", "## Steps, and images per step", "", lead, "", *budgets_table(results)]


def write_agreement(folder: Path, page: Path) -> int:
    """Write the page's tables from the results in a folder, and return how many results they show."""
    results = agreement_store(folder).read()
    if not results:
        raise SystemExit(f"There are no results in {folder}; run the benchmark first.")
    photographs = photograph_table(photographs_store(folder).read())
    lines = [
        "",
        f"**{_lead(results)}**",
        "",
        "## Agreement",
        "",
        *agreement_table(results),
        *_budgets(folder),
        "",
        "## The float network",
        "",
    ]
    lines += [
        *photographs,
        "",
        "## Where the figures come from",
        "",
        *provenance([*results, *budgets_store(folder).read()]),
        "",
    ]
    write_between_marks(page, folded("\n".join(lines)).split("\n"))
    return len(results)
