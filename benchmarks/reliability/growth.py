"""Many runs in one process: what does its memory do?"""

import gc
import resource
from pathlib import Path
from typing import Any

import mrecg
import toys
from benchmarks.reliability.short_run import recipe

__all__ = ["RUNS", "resident_after_each"]

RUNS = 100
PAGE = resource.getpagesize()


def resident_after_each(runs: int = RUNS) -> dict[str, Any]:
    """Quantize again and again; return the resident memory after each run."""
    chosen, found = recipe(steps=20, network_steps=20), []
    for _ in range(runs):
        mrecg.quantize(toys.make("chain"), toys.images(16), recipe=chosen, progress=False)
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found.append(pages * PAGE / 2**20)
    return {"runs": runs, "resident_mib": found}
