"""Render `docs/results.md`, `docs/performance.md`, `docs/efficientnet-lite0.md` and the table in the README.

No figure in them is typed by hand.

python benchmarks/render_results.py
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ablations import CHOICES
from performance_tables import render_performance
from tables import Result, load, table

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
PHOTOGRAPHS = HERE.parent / "docs" / "efficientnet-lite0.md"
MARKS = (
    "<!-- results: written by benchmarks/render_results.py -->",
    "<!-- end of results -->",
)
HEADER = """# Results

Top-1 (%) on the 10,000 test images of Fashion-MNIST, mean ± standard deviation over seeds; the number of seeds is in
brackets. The binomial standard error at 91 % is 0.29. First and last layers at 8 bits (the "QDrop setting"). *KL from float*
is the mean Kullback-Leibler divergence of the predictions on the same images from the float network's; it depends on no label, and
so on no luck with the images that lie between two classes.
Written by `benchmarks/render_results.py` from the files in `benchmarks/results/accuracy`, each of which names its
commit, seed, device, versions and whole recipe.
"""
CHOICES_HEADER = """
## What each choice is worth

The same runs with one choice taken away (`benchmarks/accuracy.py --without`): groups that stop early; the network as a whole; learned weight ranges; a rounding rate that follows the budget (without: the paper's 1e-3);
batches reshuffled every epoch (without: the authors' fixed ones); the loss metric's run, from which single units
continue (without: they start anew; its own steps are not counted in either); float32 (without: bfloat16); joining by the
metric *loss* (without: *capacity*, which needs no run) and by the squared difference (without: the log-ratio).
Steps are those of the groups.
"""
SCHEDULE_HEADER = """
## Against the paper's schedule

The same code without everything of ours that decides accuracy (`benchmarks/accuracy.py --without everything`): the paper's
rates, fixed batches, no learned weight ranges, nothing for the network as a whole, no early stop. What it reaches at 500
steps beside the authors' own figures tells how far it stands for their code; what it reaches at 20,000, their default, is
what their code was not run for. Where only a few images get another class than from the float network, it is luck which of
them are right afterwards, and that moves top-1; the divergence tells which schedule is nearer.
"""
README_STEPS = 500
"""The budget at which the authors' code was measured."""
METHODS = ("rtn", "adaround", "brecq", "brecq-mrecg", "qdrop", "qdrop-mrecg")


def summary(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread} ({len(values)})"


def divergence(cells: list[Result]) -> str:
    """Mean over cells, or nothing where one of them did not measure it."""
    if not all("divergence" in cell for cell in cells):
        return ""
    return f"{statistics.mean(cell['divergence'] for cell in cells):.4f}"


def disagreement(cells: list[Result]) -> str:
    """Percent of the images whose class is not the float network's; or nothing where a cell did not measure it."""
    if not all("agreement" in cell for cell in cells):
        return ""
    return summary([100 - cell["agreement"] for cell in cells])


def by_key(results: Iterable[Result], *keys: str) -> dict[tuple[Any, ...], list[Result]]:
    groups: dict[tuple[Any, ...], list[Result]] = defaultdict(list)
    for result in results:
        groups[tuple(result[key] for key in keys)].append(result)
    return dict(sorted(groups.items(), reverse=True))


def accuracy_table(results: list[Result], authors: dict[str, Any]) -> list[str]:
    """One row per cell, with the authors' code where it was measured."""
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
    """Accuracy and seconds against the number of steps, where one method ran with several."""
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
    """What joining changed, seed by seed against the same seed without it."""
    rows = []
    keys = ("network", "bits", "steps", "images")
    for (network, bits, steps, _), cells in by_key(results, *keys).items():
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
            joins = ", ".join("+".join(group) for group in pairs[0][1]["joined"]) or "none"
            rows.append((network, bits, method, steps, gaps, nearness, losses, joins))
    arrows = "KL from float, blocks → mrecg | largest unit loss, blocks → mrecg"
    joining = f"+ mrecg − blocks | {arrows} | joined (first seed)"
    return table(f"network | bits | method | steps | {joining}", rows)


def choices_table(folder: Path) -> list[str]:
    """What taking one choice away changed, seed by seed against the same seed with all of them."""
    rows = []
    keys = ("network", "bits", "method", "steps", "images", "seed")
    full = {key: cells[0] for key, cells in by_key(load(folder / "nothing"), *keys).items()}
    for choice in [name for name in CHOICES if name not in ("nothing", "everything")]:
        pairs = [
            {**cell, "gain": full[key]["top1"] - cell["top1"], "full": full[key]["steps_taken"]}
            for key, (cell,) in by_key(load(folder / choice), *keys).items()
            if key in full
        ]
        for group, cells in by_key(pairs, *keys[:4]).items():
            taken = sum(c["steps_taken"] for c in cells) / max(1, sum(c["full"] for c in cells))
            gain = summary([cell["gain"] for cell in cells])
            rows.append((choice, *group, gain, f"{taken:.2f}"))
    compared = "top-1 with − without | steps taken, without ÷ with"
    return table(f"taken away | network | bits | method | steps | {compared}", rows)


def schedule_table(
    published: list[Result], ours: list[Result], authors: dict[str, Any]
) -> list[str]:
    """The paper's schedule and ours, at every number of steps that either was run with."""
    rows = []
    cells = ("network", "bits", "method", "images")
    found = {
        name: by_key(results, *cells)
        for name, results in (("the paper's", published), ("ours", ours))
    }
    for cell in found["the paper's"]:
        network, bits, method, _ = cell
        for schedule, results in found.items():
            for (steps,), same in sorted(by_key(results.get(cell, []), "steps").items()):
                top1 = summary([result["top1"] for result in same])
                known = authors.get(str(steps), {}).get(network, {}).get(bits, {}).get(method)
                theirs = "" if known is None or schedule == "ours" else f"{known:.2f}"
                figures = (top1, theirs, divergence(same), disagreement(same))
                rows.append((network, bits, method, schedule, f"{steps:,}", *figures))
    figures_named = "top-1 | authors' code | KL from float | other class than float (%)"
    return table(f"network | bits | method | schedule | steps | {figures_named}", rows)


def provenance(results: list[Result]) -> list[str]:
    """Which commits and machines the figures come from."""
    commits = sorted({result["commit"] for result in results})
    machines = sorted(
        {
            f"{e['machine']} ({e['device']}, {e['threads']} thread(s)), torch {e['torch']}, torchao {e['torchao']}"
            for e in (result["environment"] for result in results)
        }
    )
    seconds = by_key(results, "network", "method")
    rows = []
    for (network, method), cells in seconds.items():
        times = [sum(cell["seconds"].values()) for cell in cells]
        rows.append((network, method, f"{statistics.median(times):.0f}"))
    origin = f"Commits: {', '.join(commits)}. Machines: {'; '.join(machines)}."
    return [origin, "", *table("network | method | seconds per run, all phases", rows)]


def agreement_table(results: list[Result]) -> list[str]:
    """How far quantized networks keep the float network's answers on photographs."""
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
        f"the float network's logits have a standard deviation of {first['logit_deviation']:.2f}.",
    ]


def photograph_table(photographs: list[Result]) -> list[str]:
    """What the float network says about each photograph."""
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


def write_between_marks(path: Path, lines: list[str]) -> None:
    """Replace what stands between a document's two marks."""
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    path.write_text(before + "\n".join([MARKS[0], *lines, MARKS[1]]) + after, encoding="utf-8")


def write_photographs(folder: Path) -> None:
    """The page about EfficientNet-Lite0."""
    float_network = json.loads((folder / "float.json").read_text())
    name = float_network["network"]
    results = [{"network": name, **result} for result in load(folder) if "agreement" in result]
    lines = ["", "## Agreement", "", *agreement_table(results), "", "## The float network", ""]
    lines += [*photograph_table(float_network["photographs"]), "", "## Where the figures come from"]
    write_between_marks(PHOTOGRAPHS, [*lines, "", *provenance(results), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "accuracy")
    parser.add_argument("--choices", type=Path, default=HERE / "results" / "choices")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs" / "results.md")
    arguments = parser.parse_args()
    results = load(arguments.results)
    if not results:
        raise SystemExit(
            f"There are no results in {arguments.results}; run benchmarks/accuracy.py."
        )
    authors = json.loads((HERE / "authors.json").read_text())
    chosen = [cell for name in CHOICES for cell in load(arguments.choices / name)]
    sections = [
        HEADER,
        "## Accuracy\n",
        *accuracy_table(results, authors),
        f"\nAuthors' code: {authors['source']}\n",
        "## Joining\n",
        *joining_table(results),
        "\n## Accuracy against steps\n",
        "Steps of each group; the network as a whole takes a fifth of them in addition. Wall time of a shared machine.\n",
        *steps_table(results),
        SCHEDULE_HEADER,
        *schedule_table(load(arguments.choices / "everything"), results, authors),
        CHOICES_HEADER,
        *choices_table(arguments.choices),
        "\n## Where the figures come from\n",
        *provenance([*results, *chosen]),
    ]
    arguments.output.write_text("\n".join(sections) + "\n", encoding="utf-8")
    compared = [
        result
        for result in results
        if result["bits"] in authors[str(README_STEPS)].get(result["network"], {})
        and result["steps"] == README_STEPS
    ]
    write_between_marks(README, accuracy_table(compared, authors))
    write_photographs(HERE / "results" / "natural_images")
    page = HERE.parent / "docs" / "performance.md"
    measured = render_performance(HERE / "results" / "performance", results, authors, page)
    print(f"{measured} results in {page}")
    print(f"{len(results)} results in {arguments.output} and {README}")


if __name__ == "__main__":
    main()
