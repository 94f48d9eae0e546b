"""A whole run on an accelerator: seconds, and what part of the device's peak the tuning steps reach.

    python benchmarks/card.py
    python benchmarks/card.py --precision tfloat32 --cuda-graphs
    python benchmarks/card.py --device cpu --network resnet18_small --side 28 --images 64 --steps 20

The operations of a step are counted, the peak is measured: the fastest product of two square matrices in the same
precision. Images and weights are random, which changes no timing; no group stops early.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import mrecg
from accuracy import commit
from mrecg.config.recipe import Recipe
from mrecg.optimize import groups
from mrecg.optimize.group import tune
from mrecg.optimize.precision import precision
from mrecg.paper.networks import NETWORKS, build

HERE = Path(__file__).parent
PEAK_SIDE = {"cuda": 8192, "cpu": 1024}
"""Side of the matrices whose product shows the peak."""
REPEATS = 10


def operations_of_a_step(model: nn.Module, images: Tensor, recipe: Recipe) -> int:
    """Floating-point operations of one step of every group, those of convolutions and products."""
    found = []

    def counted(*arguments: Any) -> Any:
        with FlopCounterMode(display=False) as counter:
            tuned = tune(*arguments)
        found.append(counter.get_total_flops())
        return tuned

    once = recipe.override({"reconstruct.steps": 1, "reconstruct.cuda_graphs": False})
    with mock.patch.object(groups, "tune", counted):
        mrecg.quantize(model, images, recipe=once)
    return sum(found)


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Wall time, all that was launched included."""
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def measured_peak(recipe: Recipe, device: torch.device) -> float:
    """Floating-point operations per second of the fastest of some products of matrices."""
    side = PEAK_SIDE[device.type]
    a, b = torch.randn(2, side, side, device=device)
    with precision(recipe.reconstruct.precision, device):
        return 2 * side**3 / min(seconds_of(lambda: a @ b, device) for _ in range(REPEATS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--preset", default="w2a4-qdrop")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--cuda-graphs", action="store_true")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "performance")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here; --device cpu runs a short form.")
    recipe = mrecg.preset(
        arguments.preset,
        {
            "reconstruct.steps": arguments.steps,
            "reconstruct.batch_size": arguments.batch,
            "reconstruct.precision": arguments.precision,
            "reconstruct.cuda_graphs": arguments.cuda_graphs,
            "reconstruct.early_stop": False,
            "reconstruct.network_share": 0.0,
        },
    )
    generator = torch.Generator().manual_seed(0)
    channels = NETWORKS[arguments.network].preprocessing.channels
    shape = (arguments.images, channels, arguments.side, arguments.side)
    images = torch.randn(shape, generator=generator)
    torch.manual_seed(0)
    model = build(arguments.network).to(device)
    operations = operations_of_a_step(model, images[: arguments.batch], recipe)
    made: list[mrecg.QuantizedModel] = []
    seconds = seconds_of(lambda: made.append(mrecg.quantize(model, images, recipe=recipe)), device)
    record = made[0].record
    per_second = operations * arguments.steps / record.seconds["reconstruction"]
    result = {
        "network": arguments.network,
        "side": arguments.side,
        "images": arguments.images,
        "batch": arguments.batch,
        "steps": arguments.steps,
        "preset": arguments.preset,
        "precision": arguments.precision,
        "cuda_graphs": arguments.cuda_graphs,
        "seconds": seconds,
        "phases": record.seconds,
        "operations_per_step": operations,
        "operations_per_second": per_second,
        "peak_operations_per_second": measured_peak(recipe, device),
        "commit": commit(),
        "environment": record.environment,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    replayed = "-graphs" if arguments.cuda_graphs else ""
    name = (
        f"{arguments.network}-{arguments.side}-{arguments.preset}-{arguments.precision}{replayed}"
    )
    (arguments.output / f"card-{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    share = per_second / result["peak_operations_per_second"]
    print(f"{name}: {seconds:.0f} s, {share:.1%} of the peak", flush=True)


if __name__ == "__main__":
    main()
