"""How long a step takes, where a run's seconds go, how much memory it holds, and how the work grows.

    python -m benchmarks.performance step                                # against a float step of the same unit
    python -m benchmarks.performance step --networks resnet18@224 --batch 8 --methods qdrop
    python -m benchmarks.performance step --without fused-clipping
    python -m benchmarks.performance step --against ../other-checkout    # against the step of another version
    python -m benchmarks.performance pipeline --networks resnet18_small --steps 20 --images 64
    python -m benchmarks.performance memory --network resnet18_small --side 28 --images 256 --memory 16MiB --steps 2000
    python -m benchmarks.performance scaling
    python -m benchmarks.performance gpu --precision tfloat32 --cuda-graphs
    python -m benchmarks.performance gpu --device cpu --network resnet18_small --side 28 --images 64 --steps 20
    python -m benchmarks.performance render                              # docs/performance.md

Images and weights are random, which changes no timing. What was measured before is replaced.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.performance import gpu, memory, pipeline, render, scaling, step
from benchmarks.store import RESULTS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--threads", type=int, default=1)
    commands = parser.add_subparsers(required=True)
    for module in (step, pipeline, memory, scaling, gpu, render):
        command = commands.add_parser(module.__name__.rpartition(".")[2], help=module.__doc__)
        module.configure(command)
        command.set_defaults(run=module.run)
    return parser


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    arguments = _parser().parse_args(given)
    torch.set_num_threads(arguments.threads)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
