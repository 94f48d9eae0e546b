"""How long a step takes, where a run's seconds go, how much memory it holds, and how the work grows.

    python -m benchmarks.performance step                                # against a float step of the same unit
    python -m benchmarks.performance step --networks resnet18@224 --batch 8 --methods qdrop
    python -m benchmarks.performance step --without fused-clipping
    python -m benchmarks.performance step --against ../other-checkout    # against the step of another version
    python -m benchmarks.performance network-step                        # of the network as a whole, against training
    python -m benchmarks.performance window-step                         # on windows of large maps, against whole ones
    python -m benchmarks.performance pipeline --networks resnet18_small --steps 20 --images 64
    python -m benchmarks.performance default-run --against ../other-checkout
    python -m benchmarks.performance memory --network resnet18_small --side 28 --images 256 --memory 16MiB --steps 2000
    python -m benchmarks.performance range-memory
    python -m benchmarks.performance kept-memory                         # against returning it to the system
    python -m benchmarks.performance rounding                            # to nearest, against ONNX Runtime
    python -m benchmarks.performance first-call                          # against torch's import and export
    python -m benchmarks.performance threads                             # one and two, on an idle machine
    python -m benchmarks.performance scaling
    python -m benchmarks.performance gpu --precision tfloat32 --cuda-graphs
    python -m benchmarks.performance gpu --device cpu --network resnet18_small --side 28 --images 64 --steps 20
    python -m benchmarks.performance render                              # docs/performance.md

Images and weights are random, which changes no timing. What was measured before is replaced.
"""

from collections.abc import Sequence

from benchmarks.commands import Command, rendering, run_command
from benchmarks.performance import (
    default_run,
    first_call,
    gpu,
    kept_memory,
    memory,
    network_step,
    pipeline,
    range_memory,
    rounding,
    scaling,
    step,
    threads,
    window_step,
)
from benchmarks.performance.render import write_performance


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    commands = (
        Command("step", step.configure, step.run),
        Command("network-step", network_step.configure, network_step.run),
        Command("window-step", window_step.configure, window_step.run),
        Command("pipeline", pipeline.configure, pipeline.run),
        Command("default-run", default_run.configure, default_run.run),
        Command("kept-memory", kept_memory.configure, kept_memory.run),
        Command("memory", memory.configure, memory.run),
        Command("range-memory", range_memory.configure, range_memory.run),
        Command("rounding", rounding.configure, rounding.run),
        Command("first-call", first_call.configure, first_call.run),
        Command("threads", threads.configure, threads.run),
        Command("scaling", scaling.configure, scaling.run),
        Command("gpu", gpu.configure, gpu.run),
        rendering("performance.md", write_performance),
    )
    run_command(__doc__, commands, given, threads=1)


if __name__ == "__main__":
    main()
