"""Steps on windows of large maps against steps on whole maps, and against whole maps of fewer images."""

import argparse
import itertools
import statistics
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

import mrecg
from benchmarks.accuracy.measure import answers
from benchmarks.natural_images.nearness import BATCH, nearness
from benchmarks.natural_images.photographs import NETWORK, calibration_and_held_out, weights
from benchmarks.store import Result, Store
from benchmarks.tables import by_key, table
from mrecg.config.recipe import Recipe
from mrecg.paper.networks import make_network

__all__ = ["configure_windows", "measure_windows", "windows_store", "windows_table"]

Window = int | None
"""Positions that a step sees of an image; `None` is the whole map."""


def windows_store(folder: Path) -> Store:
    """Return how near a network is to the float one, and what its groups cost."""
    key = ("network", "side", "bits", "method", "window", "batch_size", "steps", "images", "seed")
    return Store("windows", key, folder)


def _way(text: str) -> tuple[Window, int]:
    """Read positions (or `none`) and images of a step, such as 196x32."""
    window, images = text.split("x")
    return None if window == "none" else int(window), int(images)


def configure_windows(measuring: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    measuring.add_argument(
        "--ways",
        nargs="+",
        type=_way,
        default=[(None, 32), (196, 32), (64, 32), (None, 8)],
        metavar="POSITIONSxIMAGES",
        help="of each step; none is whole maps",
    )
    measuring.add_argument("--bits", nargs="+", default=["w4a4"])
    measuring.add_argument("--method", default="qdrop")
    measuring.add_argument("--seeds", nargs="+", type=int, default=[1005])
    measuring.add_argument("--steps", type=int, default=100)
    measuring.add_argument("--side", type=int, default=224, help="of the crops, in pixels")
    measuring.add_argument("--images", type=int, default=128, help="calibration crops")
    measuring.add_argument("--held-out", type=int, default=252, help="crops to compare on")
    measuring.add_argument("--device", default="cpu")


def measure_windows(arguments: argparse.Namespace) -> None:
    """Measure and store every cell that has no result; nothing is done for the network as a whole."""
    model = make_network(NETWORK, weights()).to(arguments.device)
    store = windows_store(arguments.results)
    calibration, held_out = (
        interpolate(crops, size=arguments.side, mode="bilinear", antialias=True)
        for crops in calibration_and_held_out(arguments.images, arguments.held_out)
    )
    expected: Tensor | None = None
    for seed, bits, (window, batch) in itertools.product(
        arguments.seeds, arguments.bits, arguments.ways
    ):
        cell: dict[str, Any] = {
            "network": NETWORK,
            "side": arguments.side,
            "bits": bits,
            "method": arguments.method,
            "window": window,
            "batch_size": batch,
            "steps": arguments.steps,
            "images": len(calibration),
            "held_out": len(held_out),
            "seed": seed,
        }
        if cell in store:
            continue
        expected = answers(model, held_out, BATCH) if expected is None else expected
        result = cell | nearness(_recipe(cell), model, calibration, held_out, expected)
        store.add(result)
        shown = {key: round(result[key], 4) for key in ("agreement", "divergence", "cpu_seconds")}
        print(bits, window, batch, seed, shown, flush=True)


def _recipe(cell: dict[str, Any]) -> Recipe:
    settings = {f"reconstruct.{name}": cell[name] for name in ("batch_size", "steps")}
    settings["reconstruct.window"] = cell["window"] or "none"
    return mrecg.preset(
        f"{cell['bits']}-{cell['method']}", {**settings, "seed": cell["seed"], "network.steps": 0}
    )


def windows_table(results: list[Result]) -> list[str]:
    """Return quality against CPU seconds, one row for each way to take a step."""
    rows = []
    ordered = [one | {"window": one["window"] or 0} for one in results]  # None has no order
    for key, cells in by_key(ordered, "side", "bits", "steps", "window", "batch_size").items():
        side, bits, steps, window, batch = key
        figures = [
            statistics.mean(cell[name] for cell in cells)
            for name in ("divergence", "logit_difference", "agreement")
        ]
        seconds = statistics.median(cell["cpu_seconds"] for cell in cells)
        way = f"{window} positions" if window else "whole maps"
        shown = f"{figures[0]:.3f} ({len(cells)})", f"{figures[1]:.3f}", f"{figures[2]:.1f}"
        rows.append((f"{side}²", bits, steps, way, batch, *shown, f"{seconds:.0f}"))
    columns = "crops | bits | steps | a step sees | of images | KL | mean logit difference | agree with float (%) | CPU seconds"
    return table(columns, rows)
