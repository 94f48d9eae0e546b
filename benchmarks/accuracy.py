"""Accuracy of every method at every width, one JSON file per cell; cells that have one are skipped.

    python benchmarks/accuracy.py --networks mobilenetv2_small --bits w2a2 --methods brecq qdrop qdrop-mrecg
    python benchmarks/accuracy.py --reference ../reference --networks resnet18s mbv2s

Images: 256 of the training set, `numpy.random.RandomState(1005).permutation(60000)`; test: all 10,000 test images.
Seeds decide batches and dropping, not the images. Several processes may share the work with `--part 1/2`, `2/2`.

    python benchmarks/accuracy.py --without early-stop --bits w2a2 --methods qdrop-mrecg

What is taken away is one of `ablations.CHOICES`; the cells go to a folder of that name.
"""

import argparse
import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

import mrecg
from ablations import CHOICES, without
from mrecg.data.fashion_mnist import DEBIAN_FOLDER, load_split
from mrecg.paper.networks import build, load_weights

HERE = Path(__file__).parent
OUR_NETWORKS = sorted(path.stem for path in (HERE / "checkpoints").glob("*.safetensors"))
METHODS = ("rtn", "adaround", "brecq", "brecq-mrecg", "qdrop", "qdrop-mrecg")
PAPER_SETTINGS = {
    "mbv2s": {"reconstruct.penalty": 0.1},
    "mobilenetv2_small": {"reconstruct.penalty": 0.1},
}
"""What the papers change for a network: λ = 0.1 for MobileNetV2."""
REFERENCE_NETWORKS = {"resnet18s": "resnet18_small", "mbv2s": "mobilenetv2_small"}


class Cell(NamedTuple):
    """One figure of the table."""

    network: str
    bits: str
    method: str
    steps: int
    images: int
    seed: int

    @property
    def file(self) -> str:
        return f"{self.network}-{self.bits}-{self.method}-{self.steps}steps-{self.images}images-seed{self.seed}.json"


def float_network(name: str, reference: Path | None) -> nn.Module:
    """Our own checkpoint, or the reference network of that name."""
    model = build(REFERENCE_NETWORKS.get(name, name))
    folder = reference if name in REFERENCE_NETWORKS else HERE / "checkpoints"
    if folder is None:
        raise SystemExit(f"{name} needs --reference FOLDER")
    load_weights(model, folder / f"{name}.safetensors")
    return model


def commit() -> str:
    """The commit that produced a figure, marked when the code had changed since."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True
        ).stdout.strip()

    code = ("../src", ".", ":!results")  # a result that is made anew changes no code
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *code)
    return git("rev-parse", "--short", "HEAD") + ("-changed" if changed else "")


def run_cell(
    cell: Cell, model: nn.Module, folder: Path, overrides: dict[str, object]
) -> dict[str, object]:
    """Quantize and evaluate."""
    images, _ = load_split("train", folder)
    chosen = np.random.RandomState(1005).permutation(len(images))[: cell.images]
    settings = {"seed": cell.seed} | PAPER_SETTINGS.get(cell.network, {}) | overrides
    if cell.method != "rtn":
        settings |= {"reconstruct.steps": cell.steps}
    recipe = mrecg.preset(f"{cell.bits}-{cell.method}", settings)
    quantized = mrecg.quantize(model, images[torch.from_numpy(chosen)], recipe=recipe)
    record = quantized.record
    return {
        **cell._asdict(),
        **measured(quantized.model, model, folder),
        "joined": record.plan.joined,
        "oscillation": record.oscillation.total,
        "jumps": len(record.oscillation.jumps),
        "largest_loss": record.oscillation.largest_loss,
        "last_loss": record.units[-1].relative_loss,
        "steps_taken": sum(group.steps for group in record.groups),
        "undecided": float(np.mean([group.undecided for group in record.groups])),
        "seconds": record.seconds,
        "commit": commit(),
        "recipe": recipe.model_dump(mode="json"),
        "environment": record.environment,
    }


def measured(model: nn.Module, float_model: nn.Module, folder: Path) -> dict[str, float]:
    """Top-1 on the test images, in percent, and how near the answers are to the float network's.

    Where both networks are about equally right, top-1 is the luck of the images on which they differ. How many images
    those are, and the mean Kullback-Leibler divergence of the predictions, depend on no label.
    """
    images, labels = load_split("test", folder)
    ours, wanted = answers(model, images), answers(float_model.eval(), images)
    predictions = ours.log_softmax(1), wanted.log_softmax(1)
    return {
        "top1": percent_equal(ours.argmax(1), labels),
        "agreement": percent_equal(ours.argmax(1), wanted.argmax(1)),
        "divergence": float(kl_div(*predictions, reduction="batchmean", log_target=True)),
    }


@torch.inference_mode()
def answers(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(part) for part in images.split(250)])


def percent_equal(a: Tensor, b: Tensor) -> float:
    return 100 * int((a == b).sum()) / len(a)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=OUR_NETWORKS)
    parser.add_argument("--bits", nargs="+", default=["w4a4", "w2a4", "w3a3", "w2a2"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1005, 1006, 1007])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--reference", type=Path, help="folder of the reference checkpoints")
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="folder of the IDX files")
    parser.add_argument("--output", type=Path, help="folder of the cells")
    parser.add_argument("--without", choices=CHOICES, help="take away one of our choices")
    parser.add_argument("--part", default="1/1", help="this process's share, such as 2/2")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="overrides")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    name, results = arguments.without, HERE / "results"
    output = arguments.output or (results / "choices" / name if name else results / "accuracy")
    output.mkdir(parents=True, exist_ok=True)
    overrides = CHOICES.get(name, {}) | {
        key: json.loads(value) for key, value in (o.split("=") for o in arguments.overrides)
    }
    part, parts = map(int, arguments.part.split("/"))
    grid = itertools.product(arguments.seeds, arguments.networks, arguments.bits, arguments.methods)
    for position, (seed, network, bits, method) in enumerate(grid):
        cell = Cell(network, bits, method, arguments.steps, arguments.images, seed)
        path = output / cell.file
        if position % parts != part - 1 or path.exists():
            continue
        model = float_network(network, arguments.reference)
        with without(name):
            result = run_cell(cell, model, arguments.data, overrides)
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{cell.file}: {result['top1']:.2f} %", flush=True)


if __name__ == "__main__":
    main()
