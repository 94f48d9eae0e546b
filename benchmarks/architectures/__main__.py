"""Which architectures go from a float model to a verified file; those that have a result are skipped.

    python -m benchmarks.architectures measure                        # the list in families.py
    python -m benchmarks.architectures measure timm:resnet10t resnet18 torchvision:alexnet@96
    python -m benchmarks.architectures render                         # docs/limits.md

The number behind @ is the side of the images, 64 if absent; 1x4000 or 3x32x128 is a whole shape. Weights are random and images are noise: whether a model
passes does not depend on what it has learned, and the outputs must still agree. Each model is reconstructed by a few
steps of QDrop under the placement for ONNX Runtime, exported in the layout int8, and compared with the simulation, ties
apart.
"""

import argparse
from collections.abc import Sequence

import mrecg
from benchmarks.architectures.examine import examine_alone
from benchmarks.architectures.families import family, networks
from benchmarks.architectures.render import architectures_store, write_limits
from benchmarks.commands import Command, rendering, run_command
from benchmarks.provenance import ONNX_PACKAGES, commit, versions

DEFAULT_SIDE = 64
PACKAGES = (
    "torch",
    "torchao",
    "timm",
    "torchvision",
    "segmentation-models-pytorch",
    "facenet-pytorch",
    "onnx2fx",
    *ONNX_PACKAGES,
)


def _configure(measuring: argparse.ArgumentParser) -> None:
    measuring.add_argument(
        "models", nargs="*", default=networks(), help="NAME, NAME@SIDE or NAME@1x48x40"
    )
    measuring.add_argument("--preset", default="w4a8-qdrop")
    measuring.add_argument("--steps", type=int, default=2, help="of each unit")
    measuring.add_argument("--images", type=int, default=8)
    measuring.add_argument("--limit", type=float, default=900, help="seconds for a model")


def _measure(arguments: argparse.Namespace) -> None:
    store = architectures_store(arguments.results)
    settings = {"reconstruct.steps": arguments.steps, "reconstruct.batch_size": 4}
    recipe = mrecg.preset(arguments.preset, settings).for_backend("onnxruntime")
    for model in arguments.models:
        name, _, size = model.partition("@")
        if {"network": name} in store:
            continue
        shape = (arguments.images, *_shape(size))
        found = examine_alone(name, shape, recipe, arguments.limit)
        result = {
            "network": name,
            "family": family(model),
            "shape": shape,
            **vars(found),
            "commit": commit(),
            "recipe": recipe.model_dump(mode="json"),
            "environment": versions(PACKAGES),
        }
        store.add(result)
        print(f"{name}: {found.problem or 'verified'}", flush=True)


def _shape(size: str) -> tuple[int, ...]:
    """Return the shape of an image, from its side or from all of its sides."""
    sides = tuple(int(one) for one in size.split("x")) if size else (DEFAULT_SIDE,)
    return sides if len(sides) > 1 else (3, *sides, *sides)


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    commands = (Command("measure", _configure, _measure), rendering("limits.md", write_limits))
    run_command(__doc__, commands, given)


if __name__ == "__main__":
    main()
