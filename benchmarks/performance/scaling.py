"""How the work grows with the number of units and of images: images that units run forward, counted, not timed."""

import argparse

import torch
from torch import fx, nn

import mrecg
from benchmarks.performance.results import performance_store
from benchmarks.provenance import commit

__all__ = ["configure", "image_forwards", "run"]

STEPS, BATCH = 4, 16


def chain(units: int) -> nn.Module:
    """Return as many convolutions, each of which becomes a unit."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 2, 3, padding=1) for _ in range(units)]
    return nn.Sequential(*layers).eval()


def image_forwards(units: int, images: int, steps: int, batch: int) -> int:
    """Return the images that pass through a unit, added up over units and passes, in a run of MRECG's method."""
    total = 0

    def count(module: nn.Module, arguments: tuple[object, ...]) -> None:
        nonlocal total
        if isinstance(module, fx.GraphModule) and isinstance(arguments[0], torch.Tensor):
            total += len(arguments[0])

    x = torch.randn(images, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    settings = {"reconstruct.steps": steps, "reconstruct.batch_size": batch}
    hook = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        recipe = mrecg.preset("w4a4-qdrop", settings)
        mrecg.quantize(chain(units), x, recipe=recipe, progress=False)
    finally:
        hook.remove()
    return total


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--units", nargs="+", type=int, default=[4, 8, 16, 32])
    parser.add_argument("--images", nargs="+", type=int, default=[64, 128, 256, 512])


def run(arguments: argparse.Namespace) -> None:
    """Count, and store, all combinations."""
    store = performance_store("scaling", arguments.results)
    for units in arguments.units:
        for images in arguments.images:
            found = image_forwards(units, images, STEPS, BATCH)
            cell = {"units": units, "images": images, "image_forwards": found}
            store.add({**cell, "steps": STEPS, "batch": BATCH, "commit": commit()})
            print(f"{units} units, {images} images: {found / units:.0f} images per unit")
