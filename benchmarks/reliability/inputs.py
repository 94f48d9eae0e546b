"""Damaged inputs by the thousand, each read in a process that a hang or a crash may end."""

import multiprocessing
import signal
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.reliability.short_run import in_child
from mutations import KINDS, refusal

__all__ = ["BLOCK", "BLOCKS", "KINDS", "read_block"]

BLOCK, BLOCKS = 250, 4
"""Inputs of a result, and results of each kind."""
LONGEST = 30
"""Seconds after which reading an input counts as a hang."""


def read_block(kind: str, first: int, count: int = BLOCK) -> dict[str, Any]:
    """Read the damaged inputs of neighboring seeds; count how each ended."""
    ends: Counter[str] = Counter(read=0, refused=0, tracebacks=0, hangs=0, crashes=0)
    faults: list[str] = []
    started, seed = time.perf_counter(), first
    while seed < first + count:
        receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
        process = in_child(_read, kind, seed, first + count, sender)
        sender.close()
        while True:
            try:
                end = receiver.recv()
            except EOFError:
                break
            ends[end.partition(":")[0]] += 1
            faults += [f"seed {seed}: {end}"] if ":" in end else []
            seed += 1
        process.join()
        if seed < first + count:
            hung = process.exitcode == -signal.SIGALRM
            ends["hangs" if hung else "crashes"] += 1
            faults.append(f"seed {seed}: exit code {process.exitcode}")
            seed += 1
    seconds = time.perf_counter() - started
    return {
        "kind": kind,
        "first": first,
        "inputs": count,
        **ends,
        "seconds": seconds,
        "faults": faults,
    }


def _read(kind: str, first: int, last: int, ends: Any) -> None:
    """Read inputs, and send how each ended; the alarm ends the process even within code of C."""
    warnings.simplefilter("ignore")
    for seed in range(first, last):
        with tempfile.TemporaryDirectory() as folder:
            signal.alarm(LONGEST)
            try:
                end = "read" if refusal(kind, seed, Path(folder)) is None else "refused"
            except Exception as error:
                end = f"tracebacks: {type(error).__name__}: {str(error)[:200]}"
            signal.alarm(0)
        ends.send(end)
