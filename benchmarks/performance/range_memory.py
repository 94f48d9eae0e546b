"""Resident memory that the search for the ranges of a weight takes at its peak, beside the weight itself."""

import argparse
import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks.performance.results import performance_store
from benchmarks.provenance import commit
from mrecg.config.settings import TensorSettings
from mrecg.quantizers.grid import UniformGrid
from mrecg.quantizers.range_search import WEIGHT_SHRINKAGE, find_scaling
from mrecg.runs.folder import environment

__all__ = ["configure", "run", "search_peak"]

LAYERS = ((784, 3000), (784, 16000))
"""Inputs and outputs of linear layers."""


def search_peak(inputs: int, outputs: int) -> tuple[float, float]:
    """Return the MiB of a weight, and how many more the process holds at most while its 4-bit ranges are searched."""
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    find_scaling(weight, UniformGrid(-8, 7, True), TensorSettings(bits=4), WEIGHT_SHRINKAGE)
    return weight.nbytes / 2**20, (_status("VmHWM") - before) / 2**10


def _status(name: str) -> int:
    """Return a figure of Linux about this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def configure(parser: argparse.ArgumentParser) -> None:
    """Take no options."""


def run(arguments: argparse.Namespace) -> None:
    """Measure, and store, all layers."""
    store = performance_store("range_memory", arguments.results)
    for inputs, outputs in LAYERS:
        # In a process of its own: this one keeps memory that it used before.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            weight, peak = fresh.submit(search_peak, inputs, outputs).result()
        layer = {"inputs": inputs, "outputs": outputs}
        found = {"weight_mib": weight, "peak_mib": peak}
        origin = {"commit": commit(), "environment": environment(torch.device("cpu"))}
        store.add(layer | found | origin)
        print(f"Linear({inputs}, {outputs}), {weight:.1f} MiB: {peak:.1f} MiB", flush=True)
