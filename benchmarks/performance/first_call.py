"""Import and first call, against what torch itself takes to import and to export the same network: CPU seconds of new processes.

Programs take turns. Bytecode is compiled before, as it is where a package is installed.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.performance.results import performance_store
from benchmarks.provenance import commit, versions
from benchmarks.store import Result
from benchmarks.tables import table

__all__ = ["configure", "first_call_section", "run"]

NETWORK = """
import torch
torch.set_num_threads(1)
torch.manual_seed(0)
layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3), torch.nn.ReLU()]
model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(8 * 12 * 12, 10)).eval()
images = torch.randn(8, 3, 16, 16)
"""
EXPORT = "torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))"
PROGRAMS = {
    "import": "import mrecg",
    "torch": "import torch",
    "torch, export": f"{NETWORK}{EXPORT}",
    "first call": f"{NETWORK}import mrecg\nmrecg.quantize(model, images, recipe='w8a8-rtn')",
}
"""What is timed, by name; nothing of mrecg in the second and the third."""
HEADER = """## Import and first call

`import mrecg`, and a first `mrecg.quantize` to 8 bits of two convolutions and a linear layer, against `import torch` and torch's own
`torch.export` of the same network: CPU seconds of whole processes, medians.
"""


def measure(turns: int) -> dict[str, Any]:
    """Run every program in turns; medians of all turns but the first."""
    found: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as bytecode:
        environment = os.environ | {"PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
        for _ in range(turns + 1):
            for name, program in PROGRAMS.items():
                found[name].append(_cpu_seconds(program, environment))
    seconds = {name: statistics.median(values[1:]) for name, values in found.items()}
    return {
        "turns": turns,
        "seconds": seconds,
        "ratio": seconds["first call"] / seconds["torch, export"],
        "commit": commit(),
        "environment": versions(("torch", "torchao")) | {"machine": platform.machine()},
    }


def _cpu_seconds(program: str, environment: dict[str, str]) -> float:
    timed = f"import warnings; warnings.simplefilter('ignore')\n{program}\nimport time; print(time.process_time())"
    command = [sys.executable, "-c", timed]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--turns", type=int, default=3, help="that count; one more warms up")


def run(arguments: argparse.Namespace) -> None:
    """Measure, and store, all programs."""
    result = measure(arguments.turns)
    performance_store("first_call", arguments.results).add(result)
    parts = {name: f"{seconds:.2f} s" for name, seconds in result["seconds"].items()}
    print(f"{parts}, {result['ratio']:.2f} × torch", flush=True)


def first_call_section(results: list[Result]) -> list[str]:
    """Return the table, or nothing where nothing was measured."""
    if not results:
        return []
    rows = [
        [*(f"{seconds:.2f}" for seconds in one["seconds"].values()), f"**{one['ratio']:.2f}**"]
        for one in results
    ]
    head = "import mrecg | import torch | import torch, export | first call of mrecg | ÷ torch's import and export"
    return [HEADER, *table(head, rows), ""]
