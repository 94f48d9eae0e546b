"""How the work grows with the number of units and of images: images that units run forward, counted, not timed.

python benchmarks/scaling.py
"""

import argparse
import json
from pathlib import Path

import torch
from torch import fx, nn

import mrecg
from accuracy import commit

HERE = Path(__file__).parent


def chain(units: int) -> nn.Module:
    """As many convolutions, each of which becomes a unit."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 2, 3, padding=1) for _ in range(units)]
    return nn.Sequential(*layers).eval()


def image_forwards(units: int, images: int, steps: int = 4, batch: int = 16) -> int:
    """Images that pass through a unit, added up over units and passes, in a run of MRECG's method."""
    total = 0

    def count(module: nn.Module, arguments: tuple[object, ...]) -> None:
        nonlocal total
        if isinstance(module, fx.GraphModule) and isinstance(arguments[0], torch.Tensor):
            total += len(arguments[0])

    x = torch.randn(images, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    settings = {"reconstruct.steps": steps, "reconstruct.batch_size": batch}
    hook = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        mrecg.quantize(chain(units), x, recipe=mrecg.preset("w4a4-qdrop", settings))
    finally:
        hook.remove()
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", nargs="+", type=int, default=[4, 8, 16, 32])
    parser.add_argument("--images", nargs="+", type=int, default=[64, 128, 256, 512])
    parser.add_argument("--output", type=Path, default=HERE / "results" / "performance")
    arguments = parser.parse_args()
    cells = [
        {"units": units, "images": images, "image_forwards": image_forwards(units, images)}
        for units in arguments.units
        for images in arguments.images
    ]
    arguments.output.mkdir(parents=True, exist_ok=True)
    result = {"cells": cells, "steps": 4, "batch": 16, "commit": commit()}
    (arguments.output / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    for cell in cells:
        per_unit = cell["image_forwards"] / cell["units"]
        print(f"{cell['units']} units, {cell['images']} images: {per_unit:.0f} images per unit")


if __name__ == "__main__":
    main()
