"""Resident memory of a whole run at its peak, with a memory budget.

    python benchmarks/memory.py
    python benchmarks/memory.py --network resnet18_small --side 28 --images 256 --memory 16MiB --steps 2000

A few steps per group are enough for a large network: what they hold does not depend on how many there are, which a small
network with many steps shows. Images and weights are random.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch

import mrecg
from accuracy import commit
from mrecg.cli.inputs import bytes_of
from mrecg.paper.networks import NETWORKS, build
from mrecg.pipeline import Estimate, Progress
from mrecg.runs.folder import environment

HERE = Path(__file__).parent


def peak_resident() -> int:
    """Bytes, of this process so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def show(event: Progress) -> None:
    if event.finished:
        print(f"{event.group[-1]}: {peak_resident() / 2**30:.2f} GiB at most so far", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "performance")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)
    shape = (NETWORKS[arguments.network].preprocessing.channels, arguments.side, arguments.side)
    images = torch.randn(arguments.images, *shape, generator=generator)
    settings = {
        "reconstruct.steps": arguments.steps,
        "reconstruct.batch_size": arguments.batch,
        "reconstruct.network_share": 2 / arguments.steps,
    }
    settings |= dict(item.split("=") for item in arguments.overrides)
    announced: list[Estimate] = []
    before, started = peak_resident(), time.perf_counter()
    quantized = mrecg.quantize(
        build(arguments.network),
        images,
        recipe=mrecg.preset("w4a4-qdrop", settings),
        progress=show,
        memory=bytes_of(arguments.memory),
        announce=announced.append,
    )
    result = {
        "network": arguments.network,
        "side": arguments.side,
        "images": arguments.images,
        "steps": arguments.steps,
        "batch": arguments.batch,
        "budget": arguments.memory,
        "settings": settings,
        "peak_gib": peak_resident() / 2**30,
        "before_gib": before / 2**30,
        "estimate_memory_gib": announced[0].memory / 2**30,
        "estimate_files_gib": announced[0].files / 2**30,
        "seconds": time.perf_counter() - started,
        "commit": commit(),
        "environment": quantized.record.environment | environment(torch.device("cpu")),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    name = f"memory-{arguments.network}-{arguments.side}-{arguments.images}-{arguments.steps}steps.json"
    (arguments.output / name).write_text(json.dumps(result, indent=1) + "\n")
    print(f"{arguments.network}: {result['peak_gib']:.2f} GiB at most", flush=True)


if __name__ == "__main__":
    main()
