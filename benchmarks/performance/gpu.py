"""A whole run on an accelerator: seconds, and what part of the device's peak the steps reach.

The operations of a step are counted, the peak is measured: the fastest product of two square matrices in the same
precision. No group stops early.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import mrecg
from benchmarks.ablations import ABLATIONS, without
from benchmarks.performance.random_network import random_network
from benchmarks.performance.results import performance_store
from benchmarks.provenance import commit
from benchmarks.store import Result
from benchmarks.tables import table
from mrecg.config.recipe import Recipe
from mrecg.optimize import reconstruction
from mrecg.optimize.group import optimize_group
from mrecg.paper.published import PAPER_NETWORKS
from mrecg.torch_state import compute_precision

__all__ = ["configure", "gpu_section", "run"]

HEADER = """## On a GPU

Whole runs (`benchmarks.performance gpu`). The operations of a step, those of convolutions and products, are counted; the peak is
measured, as the fastest product of two matrices in the same precision.
"""

PEAK_SIDE = {"cuda": 8192, "cpu": 1024}
"""Side of the matrices whose product shows the peak."""
REPEATS = 10


def operations_of_a_step(model: nn.Module, images: Tensor, recipe: Recipe) -> int:
    """Return the floating-point operations of one step of every group, those of convolutions and products."""
    found = []

    def counted(*arguments: Any) -> Any:
        with FlopCounterMode(display=False) as counter:
            result = optimize_group(*arguments)
        found.append(counter.get_total_flops())
        return result

    once = recipe.override({"reconstruct.steps": 1, "reconstruct.cuda_graphs": False})
    with mock.patch.object(reconstruction, "optimize_group", counted):
        mrecg.quantize(model, images, recipe=once, progress=False)
    return sum(found)


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Return the wall time, all that was launched included."""
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def measured_peak(recipe: Recipe, device: torch.device) -> float:
    """Return the floating-point operations per second of the fastest of some products of matrices."""
    side = PEAK_SIDE[device.type]
    a, b = torch.randn(2, side, side, device=device)
    with compute_precision(recipe.reconstruct.precision, device):
        return 2 * side**3 / min(seconds_of(lambda: a @ b, device) for _ in range(REPEATS))


def measure(
    model: nn.Module, images: Tensor, recipe: Recipe, device: torch.device
) -> dict[str, Any]:
    """Run once on a device and return how far the steps are from its peak."""
    settings, model = recipe.reconstruct, model.to(device)
    operations = operations_of_a_step(model, images[: settings.images_per_step], recipe)
    made: list[mrecg.QuantizedModel] = []
    seconds = seconds_of(lambda: made.append(mrecg.quantize(model, images, recipe=recipe)), device)
    record = made[0].record
    return {
        "seconds": seconds,
        "phases": record.seconds,
        "operations_per_step": operations,
        "operations_per_second": operations
        * settings.step_count
        / record.seconds["reconstruction"],
        "peak_operations_per_second": measured_peak(recipe, device),
        "commit": commit(),
        "recipe": recipe.model_dump(mode="json"),
        "environment": record.environment,
    }


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--preset", default="w2a4-qdrop")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--cuda-graphs", action="store_true")
    parser.add_argument("--without", choices=ABLATIONS, help="take one away")


def run(arguments: argparse.Namespace) -> None:
    """Measure, and store, one run."""
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here; --device cpu runs a short form.")
    settings = {
        "reconstruct.steps": arguments.steps,
        "reconstruct.batch_size": arguments.batch,
        "reconstruct.precision": arguments.precision,
        "reconstruct.cuda_graphs": arguments.cuda_graphs,
        "reconstruct.early_stop": False,
        "network.steps": 0,
    }
    recipe = mrecg.preset(arguments.preset, settings)
    model, images = random_network(arguments.network, arguments.side, arguments.images)
    names = ("network", "side", "images", "batch", "steps", "preset", "precision", "cuda_graphs")
    asked = {name: getattr(arguments, name) for name in (*names, "without")}
    with without(arguments.without):
        found = measure(model, images, recipe, device)
    result = {**asked, "device": found["environment"]["device"], **found}
    performance_store("gpu", arguments.results).add(result)
    share = result["operations_per_second"] / result["peak_operations_per_second"]
    print(f"{arguments.network}: {result['seconds']:.0f} s, {share:.1%} of the peak", flush=True)


def gpu_section(results: list[Result]) -> list[str]:
    """Return the table, and which of the paper's networks are missing in it."""
    if not results:
        return [HEADER, "Not measured yet."]
    rows = [
        [
            r["device"],
            f"{r['network']}, {r['side']}², {r['images']} images",
            f"{r['preset']}, {r['steps']} steps",
            r["precision"]
            + (", CUDA graphs" if r["cuda_graphs"] else "")
            + (f", without {r['without']}" if r.get("without") else ""),
            f"{r['seconds']:.0f}",
            f"{r['operations_per_second'] / 1e12:.1f}",
            f"{r['operations_per_second'] / r['peak_operations_per_second']:.1%}",
            r["commit"],
        ]
        for r in results
    ]
    figures = "seconds | 10¹² per second | of the peak | commit"
    measured = {r["network"] for r in results}
    missing = [name for name in PAPER_NETWORKS if name not in measured]
    rest = f"\nOf the paper's networks not run on a GPU: {', '.join(missing)}." if missing else ""
    return [HEADER, *table(f"device | images | run | precision | {figures}", rows), rest]
