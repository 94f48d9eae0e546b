"""Kill a run at a random moment, go on with it, and compare the bits with those of a run that nobody killed."""

import random
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.reliability.short_run import (
    bits,
    finished_groups,
    go_on,
    in_child,
    optimized_into,
    recipe,
)
from mrecg.runs.files import is_finished

__all__ = ["KILLS", "kill"]

KILLS = 50
RECIPE = recipe(steps=20, network_steps=40)


LONGEST_DELAY = 0.2
"""Seconds after an event: the longest that a run of this size goes without one, but for its capture."""


@cache
def _whole() -> tuple[str, int]:
    """Return the bits of an uninterrupted run, and how many events it reports.

    It runs in this process, so that those that are killed find everything imported, compiled and traced once.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder, log = Path(scratch) / "run", Path(scratch) / "log"
        go_on(folder, RECIPE, optimized_into(log))
        return bits(folder), len(log.read_text().split())


def kill(seed: int) -> dict[str, Any]:
    """Kill a run at a random moment after a random event, go on with it, and return what was lost."""
    whole, events = _whole()
    chance = random.Random(f"kill {seed}")
    with tempfile.TemporaryDirectory() as scratch:
        folder, log = Path(scratch) / "run", Path(scratch) / "log"
        log.touch()
        process = in_child(go_on, folder, RECIPE, optimized_into(log))
        last = chance.randrange(events)
        while process.is_alive() and log.read_text().count("\n") <= last:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, LONGEST_DELAY))
        process.kill()
        process.join()
        phases = log.read_text().split()
        kept, optimized = finished_groups(folder), {one for one in phases if "-" in one}
        finished = is_finished(folder)
        log.write_text("")
        again = in_child(go_on, folder, RECIPE, optimized_into(log))
        again.join()
        return {
            "seed": seed,
            "phase": "finished" if finished else phases[-1].partition("-")[0],
            "begun": len(optimized | kept),
            "kept": len(kept),
            "lost": len(kept & set(log.read_text().split())),
            "equal": again.exitcode == 0 and bits(folder) == whole,
        }
