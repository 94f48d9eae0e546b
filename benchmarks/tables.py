"""Results in, tables of a document out."""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.store import Result

__all__ = [
    "DOCS",
    "README",
    "by_key",
    "folded",
    "provenance",
    "summary",
    "table",
    "with_lead",
    "write_between_marks",
]

README = Path(__file__).parent.parent / "README.md"
DOCS = README.parent / "docs"
MARKS = ("<!-- results: written by a script in benchmarks/ -->", "<!-- end of results -->")

OPEN_ROWS = 10
"""Longer tables are unfolded by a click."""


def table(columns: str, rows: Iterable[Iterable[object]]) -> list[str]:
    """Return the lines of a table; `columns` are separated by bars."""
    names = [name.strip() for name in columns.split("|")]
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (names, *rows)]
    return [lines[0], "|" + "---|" * len(names), *lines[1:]]


def folded(text: str) -> str:
    """Return a document with its long tables folded, on GitHub as on the site."""
    lines: list[str] = []
    for of_table, group in itertools.groupby(text.split("\n"), lambda line: line.startswith("|")):
        part = list(group)
        rows = len(part) - 2  # names of columns, and the rule beneath
        if of_table and rows > OPEN_ROWS:
            shown = f"<summary>All {rows} rows</summary>"
            part = ['<details markdown="1">', shown, "", *part, "", "</details>"]
        lines += part
    return "\n".join(lines)


def with_lead(header: str, sentence: str) -> str:
    """Return a page's header with the sentence that a reader in a hurry needs, right beneath the title."""
    title, _, rest = header.partition("\n\n")
    return f"{title}\n\n**{sentence}**\n\n{rest}"


def summary(values: Sequence[float]) -> str:
    """Return mean, standard deviation (from two values on) and, in brackets, the number of values."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread} ({len(values)})"


def by_key(results: Iterable[Result], *keys: str) -> dict[tuple[Any, ...], list[Result]]:
    """Return the results grouped by some of their fields, the largest values first."""
    groups: dict[tuple[Any, ...], list[Result]] = defaultdict(list)
    for result in results:
        groups[tuple(result[key] for key in keys)].append(result)
    return dict(sorted(groups.items(), reverse=True))


def provenance(results: Sequence[Result]) -> list[str]:
    """Return the commits and machines that the figures come from, and how long the runs took."""
    commits = sorted({result["commit"] for result in results})
    machines = sorted(
        {
            f"{e['machine']} ({e['device']}, {e['threads']} thread(s)), torch {e['torch']}, torchao {e['torchao']}"
            for e in (result["environment"] for result in results)
        }
    )
    rows = []
    for (network, method), cells in by_key(results, "network", "method").items():
        times = [sum(cell["seconds"].values()) for cell in cells]
        rows.append((network, method, f"{statistics.median(times):.0f}"))
    origin = f"Commits: {', '.join(commits)}. Machines: {'; '.join(machines)}."
    return [origin, "", *table("network | method | seconds per run, all phases", rows)]


def write_between_marks(path: Path, lines: Iterable[str]) -> None:
    """Replace what is between a document's two marks."""
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    path.write_text(before + "\n".join([MARKS[0], *lines, MARKS[1]]) + after, encoding="utf-8")
