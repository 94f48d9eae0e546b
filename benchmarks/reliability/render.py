"""The tables of `docs/reliability.md`."""

from collections import Counter
from pathlib import Path

from benchmarks.reliability.results import KEYS, reliability_store
from benchmarks.store import Result
from benchmarks.tables import by_key, table, with_lead

__all__ = ["write_reliability"]

WARM = 10
"""Runs before memory is compared: libraries load and caches fill in the first ones."""
HEADER = """# Reliability

Written by `python -m benchmarks.reliability render` from files in `benchmarks/results`, which `make soak` makes and whose results
name commit, versions and machine. The tests try the same in short.
"""
KILLS = """## Runs that are killed

A run of a small network (a run ahead for the joins, joins that are tried, the network as a whole with its codes) is killed
with SIGKILL at a random moment, and started again. *Lost* are groups that were finished at the kill and optimized again.
"""
FAULTS = """## Disks that fail

Each operation is done as often as it touches the disk, and each time another touch fails: opening, a write of which one half arrives,
`fsync`, renaming, making a folder. Then it is done again without a fault. *Half files* are those that cannot be read or that have a
draft's name; *different* are results that are not those of an operation without faults. `resume` and `reproduce` begin with a run that
was interrupted in its third group.
"""
INPUTS = """## Inputs that are damaged

Bytes changed, inserted, removed, repeated or cut off, or what parsers stumble over put in, by seed. Of run folders and checkpoints half
are damaged by somebody who recomputes the hashes. A *hang* takes more than 30 seconds; a *crash* ends the process.
"""
GROWTH = """## Memory over many runs

Resident memory of one process that quantizes again and again.
"""
COSTS = """## What it costs

Parts of a run's wall time, with a folder: hashing the inputs and writing checkpoints; the pass that looks for numbers that are none; and
setting such numbers to 0 in gradients.
"""


def _kills(results: list[Result]) -> list[str]:
    rows = [
        (phase, len(found), *(_sum(found, one) for one in ("kept", "lost", "equal")))
        for (phase,), found in reversed(by_key(results, "phase").items())
    ]
    total = ("all", len(results), *(_sum(results, one) for one in ("kept", "lost", "equal")))
    names = "phase at the kill | kills | finished groups | lost | equal bits"
    return table(names, [*rows, [f"**{one}**" for one in total]])


def _faults(results: list[Result]) -> list[str]:
    counted = ("faults", "tracebacks", "half_files", "lost_groups", "different")
    rows = [
        (operation, *(_sum(found, name) for name in counted))
        for (operation,), found in reversed(by_key(results, "operation").items())
    ]
    total = ("all", *(_sum(results, name) for name in counted))
    names = " | ".join(name.replace("_", " ") for name in counted)
    return table(f"operation | {names}", [*rows, [f"**{one}**" for one in total]])


def _inputs(results: list[Result]) -> list[str]:
    counted = ("inputs", "read", "refused", "tracebacks", "hangs", "crashes")
    rows = [
        (kind, *(_sum(found, name) for name in counted))
        for (kind,), found in reversed(by_key(results, "kind").items())
    ]
    total = ("all", *(_sum(results, name) for name in counted))
    return table(f"kind | {' | '.join(counted)}", [*rows, [f"**{one}**" for one in total]])


def _growth(results: list[Result]) -> list[str]:
    rows = []
    for one in results:
        first, last = one["resident_mib"][WARM - 1], one["resident_mib"][-1]
        rows.append((one["runs"], f"{first:.0f} MiB", f"{last:.0f} MiB", f"{_grown(one):.2%}"))
    return table(f"runs | after run {WARM} | after the last | growth", rows)


def _costs(results: list[Result]) -> list[str]:
    rows = []
    for one in results:
        shares = [f"{one['parts'][part] / one['seconds']:.2%}" for part in one["parts"]]
        run = f"{one['network']}, {one['steps']} steps, {one['images']} images"
        rows.append((run, f"{one['seconds']:.0f}", *shares))
    return table("run | seconds | checkpoints | finite pass | gradient clean-up", rows)


def _sum(results: list[Result], name: str) -> int:
    return sum(int(one[name]) for one in results)


def _grown(one: Result) -> float:
    first, last = one["resident_mib"][WARM - 1], one["resident_mib"][-1]
    return float(last / first - 1)


def _lead(found: dict[str, list[Result]]) -> str:
    """Return the page in a sentence."""
    kills, faults, inputs = found["kills"], found["faults"], found["inputs"]
    bad = sum(_sum(inputs, name) for name in ("tracebacks", "hangs", "crashes"))
    lost = _sum(kills, "lost") + _sum(faults, "lost_groups")
    return (
        f"{_sum(kills, 'equal')} of {len(kills)} killed runs went on to identical bits; {lost} finished groups were lost, "
        f"{_sum(faults, 'faults')} faults of the disk included; of {_sum(inputs, 'inputs'):,} damaged inputs, {bad} ended in a traceback, a hang or a crash."
    )


def write_reliability(folder: Path, page: Path) -> int:
    """Write the page from the results in a folder, and return how many results it shows."""
    found = {name: reliability_store(name, folder).read() for name in KEYS}
    everything = [one for results in found.values() for one in results]
    if not everything:
        raise SystemExit(f"There are no results in {folder}; run the benchmark first.")
    tables = {
        "kills": (KILLS, _kills),
        "faults": (FAULTS, _faults),
        "inputs": (INPUTS, _inputs),
        "growth": (GROWTH, _growth),
        "costs": (COSTS, _costs),
    }
    lines = [with_lead(HEADER, _lead(found))]
    for name, (text, rows) in tables.items():
        lines += [text, *(rows(found[name]) if found[name] else ["Not measured yet."]), ""]
    commits = Counter(one["commit"] for one in everything)
    machines = {
        f"{e['machine']} ({e['device']}, {e['threads']} thread(s)), torch {e['torch']}"
        for e in (one["environment"] for one in everything)
    }
    origin = f"Commits: {', '.join(sorted(commits))}. Machines: {'; '.join(sorted(machines))}."
    page.write_text("\n".join([*lines, origin]) + "\n", encoding="utf-8")
    return len(everything)
