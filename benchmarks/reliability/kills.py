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

__all__ = ["KILLS", "kill"]

KILLS = 50
RECIPE = recipe(steps=20, network_steps=40)


@cache
def _whole() -> tuple[str, float]:
    """Return the bits of an uninterrupted run, and how long it took."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, started = Path(scratch) / "run", time.perf_counter()
        in_child(go_on, folder, RECIPE, optimized_into(Path(scratch) / "log")).join()
        return bits(folder), time.perf_counter() - started


def kill(seed: int) -> dict[str, Any]:
    """Kill one run, go on with it, and return what was lost."""
    whole, seconds = _whole()
    chance = random.Random(f"kill {seed}")
    while True:
        with tempfile.TemporaryDirectory() as scratch:
            folder, log = Path(scratch) / "run", Path(scratch) / "log"
            log.touch()
            process = in_child(go_on, folder, RECIPE, optimized_into(log))
            process.join(chance.uniform(0, seconds))
            if process.exitcode is not None:  # it was faster than the one that was timed
                continue
            process.kill()
            process.join()
            phases = log.read_text().split()
            kept, optimized = finished_groups(folder), {one for one in phases if "-" in one}
            log.write_text("")
            process = in_child(go_on, folder, RECIPE, optimized_into(log))
            process.join()
            return {
                "seed": seed,
                "phase": phases[-1].partition("-")[0] if phases else "start",
                "begun": len(optimized | kept),
                "kept": len(kept),
                "lost": len(kept & set(log.read_text().split())),
                "equal": process.exitcode == 0 and bits(folder) == whole,
            }
