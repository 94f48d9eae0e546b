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

__all__ = ["BLOCK", "KINDS", "blocks", "read_block"]

BLOCK = 250
"""Inputs of a result."""
SLOW = ("run", "onnx network", "onnx export")
"""Kinds that take a tenth of a second to read."""
LONGEST = 30
"""Seconds after which reading an input counts as a hang."""


def blocks() -> list[tuple[str, int]]:
    """Return kinds and first seeds of all results: 10,500 inputs."""
    return [(kind, BLOCK * number) for kind in KINDS for number in range(2 if kind in SLOW else 4)]


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
