"""Runs that are killed, disks that fail, damaged inputs, memory, and what it costs; what has a result is skipped.

python -m benchmarks.reliability measure                       # all of it: an hour
python -m benchmarks.reliability measure kills --minutes 4     # a piece; given again, it goes on
python -m benchmarks.reliability measure faults inputs growth costs
python -m benchmarks.reliability render                        # docs/reliability.md
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.commands import Command, rendering, run_command
from benchmarks.reliability import costs, faults, growth, inputs, kills
from benchmarks.reliability.render import write_reliability
from benchmarks.reliability.results import KEYS, origin, reliability_store
from benchmarks.store import Result, Store

Cells = Iterator[tuple[dict[str, Any], Callable[[], Result]]]


def _cells(name: str, store: Store) -> Cells:
    """Yield the key of every result of a kind, with what measures it."""
    if name == "kills":
        for seed in range(kills.KILLS):
            yield {"seed": seed}, partial(kills.kill, seed)
    elif name == "faults":
        for operation in faults.OPERATIONS:
            for first in itertools.count(0, faults.BLOCK):
                cell = {"operation": operation, "first": first}
                yield cell, partial(faults.inject, operation, first)
                if any(
                    one["faults"] < faults.BLOCK
                    for one in store.read()
                    if cell.items() <= one.items()
                ):
                    break  # it touches the disk no more often
    elif name == "inputs":
        for kind, first in inputs.blocks():
            yield {"kind": kind, "first": first}, partial(inputs.read_block, kind, first)
    elif name == "growth":
        yield {"runs": growth.RUNS}, growth.resident_after_each
    else:
        for case in costs.CASES:
            yield dict(zip(KEYS["costs"], case, strict=True)), partial(costs.cost, *case)


def _configure(measuring: argparse.ArgumentParser) -> None:
    measuring.add_argument("what", nargs="*", help=", ".join(KEYS))
    measuring.add_argument("--minutes", type=float, help="begin no more after so long")


def _measure(arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    for name in arguments.what or KEYS:
        store = reliability_store(name, Path(arguments.results))
        for cell, measure in _cells(name, store):
            if cell in store:
                continue
            if arguments.minutes and time.monotonic() - started > 60 * arguments.minutes:
                return
            result = measure()
            store.add({**result, **origin()})
            shown = {key: one for key, one in result.items() if key != "resident_mib"}
            print(name, shown, flush=True)


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    commands = (
        Command("measure", _configure, _measure),
        rendering("reliability.md", write_reliability),
    )
    run_command(__doc__, commands, given, threads=1)


if __name__ == "__main__":
    main()
