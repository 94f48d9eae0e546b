"""The tables of `docs/results.md` and of the README."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.accuracy.cells import METHODS
from benchmarks.accuracy.choices import CHOICES
from benchmarks.accuracy.results import accuracy_store, authors_results
from benchmarks.store import Result
from benchmarks.tables import (
    README,
    by_key,
    folded,
    provenance,
    summary,
    table,
    with_lead,
    write_between_marks,
)

__all__ = ["choices_table", "schedule_table", "write_results"]

HEADER = """# Results

Top-1 (%) on the 10,000 test images of Fashion-MNIST, mean ± standard deviation over seeds; the number of seeds is in
brackets. The binomial standard error at 91 % is 0.29. First and last layers at 8 bits (the "QDrop setting"). *KL from float*
is the mean Kullback-Leibler divergence of the predictions on the same images from the float network's; it depends on no label, and
so on no luck with the images that lie between two classes.
Written by `python -m benchmarks.accuracy render` from `benchmarks/results/accuracy.jsonl`, where each result names its
commit, seed, device, versions and whole recipe.
"""
CHOICES_HEADER = """
## What each choice is worth

The same runs with one choice taken away (`benchmarks.accuracy measure --without`): groups that stop early; the network as a whole;
learned weight ranges; a rounding rate that follows the budget (without: the paper's 1e-3); batches reshuffled every epoch
(without: the authors' fixed ones); float32 (without: bfloat16). What joining and learning codes are worth is in
[choices.md](choices.md). Steps are those of the groups. The rows with `mrecg` were measured before joins were tried, when joined
groups started anew; the commits below say when.
"""
CODES_HEADER = """
## With codes learned in the network as a whole: the default

After the groups, the network as a whole learns codes, as the default recipe does (`benchmarks.accuracy measure --codes STEPS`);
in the tables above it learns scales alone, with a fifth of a group's steps, so that they compare methods of
reconstruction. *Images* calibrate, unlabelled; where there are more than 1,024, the groups read the first 1,024. Seconds of a
shared machine, one thread.
"""
SCHEDULE_HEADER = """
## Against the paper's schedule

*paper*: everything as in the authors' code (`benchmarks.accuracy measure --schedule paper`), their units included. *its rates*:
our code without everything of ours that decides accuracy, but with our units (`--without everything`): the paper's
rates, fixed batches, no learned weight ranges, nothing for the network as a whole, no early stop. *ours*: the default.
What *paper* reaches at 500 steps, next to the authors' own figures, tells how well it represents their code; what is
reached at 20,000, their default, is what their code was not run for. Where only a few images get another class than from
the float network, it is luck which of them are right afterwards, and that moves top-1; the divergence tells which
schedule is nearer. The authors' joined blocks are the method ending in *-scheme*. Their files give MobileNetV2 λ = 0.1; the
figures of their code on mbv2s do not say which λ they were made with, so the rows *λ = 0.01* have that of the other networks.
On mbv2s at 2/2, where 500 steps leave most roundings undecided, runs differ by a point between seeds; theirs is one run.
"""
JOINING = """The same steps for every unit, and besides those in which joins are tried: with *mrecg* a run takes up to 1.75 times the steps of the
blocks. What joining is worth at equal steps, and by which rule: [choices.md](choices.md).
"""
README_STEPS, README_IMAGES = 500, 256
"""The budget at which the authors' code was measured."""


def divergence(cells: list[Result]) -> str:
    """Return the mean over cells, or nothing where one of them did not measure it."""
    if not all("divergence" in cell for cell in cells):
        return ""
    return f"{statistics.mean(cell['divergence'] for cell in cells):.4f}"


def disagreement(cells: list[Result]) -> str:
    """Return the percentage of the images whose class is not the float network's; or nothing where a cell did not measure it."""
    if not all("agreement" in cell for cell in cells):
        return ""
    return summary([100 - cell["agreement"] for cell in cells])


def accuracy_table(results: list[Result], authors: dict[str, Any]) -> list[str]:
    """Return one row per cell, with the authors' code where it was measured."""
    rows = []
    keys = ("network", "bits", "steps", "images")
    for (network, bits, steps, images), cells in by_key(results, *keys).items():
        methods = by_key(cells, "method")
        for method in sorted((name for (name,) in methods), key=METHODS.index):
            same = methods[(method,)]
            ours = [cell["top1"] for cell in same]
            theirs = authors.get(str(steps), {}).get(network, {}).get(bits, {}).get(method)
            other = f"{theirs:.2f}" if theirs is not None else ""
            gap = f"{statistics.mean(ours) - theirs:+.2f}" if theirs is not None else ""
            figures = (summary(ours), other, gap, divergence(same))
            rows.append((network, bits, method, steps, images, *figures))
    figures_named = "ours | authors' code | difference | KL from float"
    return table(f"network | bits | method | steps | images | {figures_named}", rows)


def steps_table(results: list[Result]) -> list[str]:
    """Return accuracy and seconds against the number of steps, where one method ran with several."""
    rows = []
    for group, cells in by_key(results, "network", "bits", "method", "images").items():
        budgets = by_key(cells, "steps")
        if len(budgets) == 1:
            continue
        for (steps,), same in sorted(budgets.items()):
            seconds = statistics.median(sum(cell["seconds"].values()) for cell in same)
            top1 = summary([cell["top1"] for cell in same])
            rows.append((*group[:3], steps, top1, f"{seconds:.0f}"))
    return table("network | bits | method | steps | top-1 | seconds", rows)


def joining_table(results: list[Result]) -> list[str]:
    """Return the changes that joining made, seed by seed against the same seed without it, and how often it was nearer."""
    rows: list[tuple[object, ...]] = []
    nearer = 0
    keys = ("network", "bits", "steps", "images")
    for (network, bits, steps, images), cells in by_key(results, *keys).items():
        found = {(cell["method"], cell["seed"]): cell for cell in cells}
        for method in ("brecq", "qdrop"):
            pairs = [
                (found[method, seed], found[f"{method}-mrecg", seed])
                for name, seed in sorted(found)
                if name == method and (f"{method}-mrecg", seed) in found
            ]
            if not pairs:
                continue
            gaps = summary([after["top1"] - before["top1"] for before, after in pairs])
            losses = " → ".join(
                f"{100 * statistics.mean(pair[side]['largest_loss'] for pair in pairs):.1f} %"
                for side in (0, 1)
            )
            single, joined = (divergence([pair[side] for pair in pairs]) for side in (0, 1))
            nearness = f"{single} → {joined}" if single and joined else ""
            nearer += bool(nearness) and float(joined) < float(single)
            joins = ", ".join("+".join(group) for group in pairs[0][1]["joined"]) or "none"
            rows.append((network, bits, method, steps, images, gaps, nearness, losses, joins))
    arrows = "KL from float, blocks → mrecg | largest unit loss, blocks → mrecg"
    joining = f"+ mrecg − blocks | {arrows} | joined (first seed)"
    if not rows:
        return []
    lead = f"With joins KL is lower in {nearer} of {len(rows)} rows."
    return [lead, "", *table(f"network | bits | method | steps | images | {joining}", rows)]


def choices_table(results: list[Result]) -> list[str]:
    """Return the changes that taking one choice away made, seed by seed against the same seed with all of them."""
    rows = []
    keys = ("network", "bits", "method", "steps", "images", "seed")
    taken_away = by_key(results, "without")
    full = {key: cells[0] for key, cells in by_key(taken_away.get(("nothing",), []), *keys).items()}
    for choice in [
        name for name in CHOICES if name not in ("nothing", "everything", "network-penalty")
    ]:
        pairs = [
            {**cell, "gain": full[key]["top1"] - cell["top1"], "full": full[key]["steps_taken"]}
            for key, (cell,) in by_key(taken_away.get((choice,), []), *keys).items()
            if key in full
        ]
        for group, cells in by_key(pairs, *keys[:4]).items():
            taken = sum(c["steps_taken"] for c in cells) / max(1, sum(c["full"] for c in cells))
            gain = summary([cell["gain"] for cell in cells])
            rows.append((choice, *group, gain, f"{taken:.2f}"))
    compared = "top-1 with − without | steps taken, without ÷ with"
    return table(f"taken away | network | bits | method | steps | {compared}", rows)


def codes_table(learned: list[Result]) -> list[str]:
    """Return what learning codes reached, and how long the runs took."""
    keys = ("network", "bits", "images", "method", "steps", "code_steps")
    rows = []
    for group, cells in by_key(learned, *keys).items():
        seconds = statistics.median(sum(cell["seconds"].values()) for cell in cells)
        top1 = summary([cell["top1"] for cell in cells])
        rows.append((*group, top1, divergence(cells), disagreement(cells), f"{seconds:.0f}"))
    named = "network | bits | images | method | steps of a group | of the network"
    figures = "top-1 | KL from float | other class than float (%) | seconds"
    return table(f"{named} | {figures}", rows)


def schedule_table(schedules: Mapping[str, list[Result]], authors: dict[str, Any]) -> list[str]:
    """Return what each schedule reached, at every number of steps that it was run with, where others than `ours` were run.

    Args:
        schedules: results by the name of the schedule.
        authors: from `authors_results`.
    """
    rows = []
    keys = ("network", "bits", "method", "images")
    found = {name: by_key(results, *keys) for name, results in schedules.items()}
    others = {cell for name, cells in found.items() if name != "ours" for cell in cells}
    for cell in sorted(others, reverse=True):
        network, bits, method, _ = cell
        # The authors' code has no rule of its own, their figure for MRECG is that of their scheme.
        named = method.replace("-scheme", "-mrecg")
        for schedule, results in found.items():
            for (steps,), same in sorted(by_key(results.get(cell, []), "steps").items()):
                top1 = [result["top1"] for result in same]
                known = authors.get(str(steps), {}).get(network, {}).get(bits, {}).get(named)
                compared = known is not None and schedule != "ours"
                theirs = f"{known:.2f}" if compared else ""
                gap = f"{statistics.mean(top1) - known:+.2f}" if compared else ""
                figures = (summary(top1), theirs, gap, divergence(same), disagreement(same))
                rows.append((network, bits, method, schedule, f"{steps:,}", *figures))
    figures_named = (
        "top-1 | authors' code | difference | KL from float | other class than float (%)"
    )
    return table(f"network | bits | method | schedule | steps | {figures_named}", rows)


def readme_table(
    ours: list[Result], learned: list[Result], authors: Mapping[str, Any]
) -> list[str]:
    """Return a row for each network and width at which rounding to nearest fails: the authors' best figure, and ours.

    Args:
        ours: results of the groups at equal steps, for the networks and widths and for rounding to nearest.
        learned: results with all stages.
        authors: from `authors_results`.
    """
    theirs = authors[str(README_STEPS)]
    same_steps = [one for one in ours if one["steps"] == README_STEPS]
    rows = []
    for (network, bits), cells in by_key(same_steps, "network", "bits").items():
        known = theirs.get(network, {}).get(bits, {})
        nearest = [one for one in cells if one["method"] == "rtn"]
        reached = [one for one in learned if (one["network"], one["bits"]) == (network, bits)]
        by_images = {images: same for (images,), same in by_key(reached, "images").items()}
        if not (known and nearest and README_IMAGES in by_images):
            continue
        seeds = {images: len({one["seed"] for one in same}) for images, same in by_images.items()}
        most = max(images for images in seeds if seeds[images] >= seeds[README_IMAGES])
        more = f"{_best_top1(by_images[most])} ({most:,})" if most > README_IMAGES else ""
        rounded, original = _mean_top1(nearest), f"{authors['float'][network]:.2f}"
        figures = (f"{max(known.values()):.2f}", _best_top1(by_images[README_IMAGES]), more)
        rows.append((network, bits, original, rounded, *figures))
    here = f"mrecg, {README_IMAGES} images | mrecg, more images (how many)"
    return table(f"network | bits | float | to nearest | authors' code | {here}", rows)


def _best_top1(cells: list[Result]) -> str:
    """Return the mean over the cells with the most steps of the network as a whole."""
    return _mean_top1(next(iter(by_key(cells, "code_steps").values())))


def _mean_top1(cells: list[Result]) -> str:
    return f"{statistics.mean(cell['top1'] for cell in cells):.2f}"


def _lead(ours: list[Result], learned: list[Result], authors: Mapping[str, Any]) -> str:
    """Return the page in a sentence: the networks at the fewest bits, ours with all stages and the authors' code."""
    bits = min(result["bits"] for result in ours)
    parts = []
    for network, theirs in authors.items():
        cells = [one for one in learned if (one["network"], one["bits"]) == (network, bits)]
        if bits in theirs and cells:
            images = max(one["images"] for one in cells)
            reached = _mean_top1([one for one in cells if one["images"] == images])
            best = max(theirs[bits].values())
            parts.append(f"{network} {reached} % from {images:,} images ({best:.2f} %)")
    return f"Top-1 at {bits} with all stages, and of the authors' code from 256 images in {README_STEPS} steps: {'; '.join(parts)}."


def write_results(folder: Path, page: Path) -> int:
    """Write the page, and the README's table above its folder, and return how many results the page shows."""
    results = accuracy_store(folder).read()
    learned = [result for result in results if result.get("code_steps") is not None]
    fast = [
        result
        for result in results
        if result.get("schedule") is None and result.get("code_steps") is None
    ]
    ours = [result for result in fast if result["without"] is None]
    others = [result for result in fast if result["without"] is not None]
    if not ours:
        raise SystemExit(f"There are no results in {folder}; run the benchmark first.")
    authors = authors_results()
    paper = [result for result in results if result.get("schedule") == "paper"]
    schedules = {
        "paper": [result for result in paper if result["without"] is None],
        "paper, λ = 0.01": [result for result in paper if result["without"] == "network-penalty"],
        "its rates": [result for result in others if result["without"] == "everything"],
        "ours": ours,
    }
    sections = [
        with_lead(HEADER, _lead(ours, learned, authors[str(README_STEPS)])),
        "## Accuracy\n",
        *accuracy_table(ours, authors),
        f"\nAuthors' code: {authors['source']}\n",
        "## Joining\n",
        JOINING,
        *joining_table(ours),
        "\n## Accuracy against steps\n",
        "Steps of each group; the network as a whole takes a fifth of them in addition. Wall time of a shared machine.\n",
        *steps_table(ours),
        *([CODES_HEADER, *codes_table(learned)] if learned else []),
        SCHEDULE_HEADER,
        *schedule_table(schedules, authors),
        CHOICES_HEADER,
        *choices_table(others),
        "\n## Where the figures come from\n",
        *provenance(results),
    ]
    page.write_text(folded("\n".join(sections)) + "\n", encoding="utf-8")
    readme = page.parent.parent / README.name
    write_between_marks(readme, readme_table(ours, learned, authors))
    return len(results)
