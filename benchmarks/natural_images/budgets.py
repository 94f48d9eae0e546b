"""Steps and images per step of the whole method at 224²: how near the network comes, and at what work."""

import argparse
import itertools
import re
import statistics
from pathlib import Path
from typing import Any

import mrecg
from benchmarks.accuracy.measure import answers
from benchmarks.natural_images.nearness import BATCH, nearness
from benchmarks.natural_images.photographs import NETWORK, calibration_and_held_out, weights
from benchmarks.store import Result, Store
from benchmarks.tables import by_key, table
from mrecg.config.recipe import Recipe
from mrecg.paper.networks import NETWORKS, make_network
from mrecg.planning.budget import fit_budget

__all__ = ["budgets_store", "budgets_table", "configure_budgets", "measure_budgets"]

BUDGET = re.compile(r"(\d+)x(\d+)(?:\+(\d+)(scales)?)?")
"""Steps and images of a group's step, then steps of the network as a whole where they are not the default's."""
AUTOMATIC = "auto"
"""What a run gets that names no budget."""
DEFAULT = [AUTOMATIC, "500x32+100scales", "125x32", "500x8", "250x8", "125x8"]


def budgets_store(folder: Path) -> Store:
    """Return how near a network is to the float one at a budget."""
    return Store("budgets", ("network", "bits", "method", "budget", "images", "seed"), folder)


def _budget(text: str) -> str:
    if text != AUTOMATIC and BUDGET.fullmatch(text) is None:
        raise argparse.ArgumentTypeError("a budget is auto or STEPSxIMAGES, such as 250x16+500")
    return text


def recipe_of(cell: dict[str, Any]) -> Recipe:
    """Return the preset at a budget, with numbers for it."""
    settings: dict[str, Any] = {"seed": cell["seed"]}
    if found := BUDGET.fullmatch(cell["budget"]):
        steps, images, stage, scales = found.groups()
        settings["reconstruct.steps"] = int(steps)
        settings["reconstruct.batch_size"] = int(images)
        if stage:
            settings["network.steps"] = int(stage)
        if scales:
            settings["network.learn"] = scales
    positions = NETWORKS[NETWORK].preprocessing.crop ** 2
    return fit_budget(mrecg.preset(f"{cell['bits']}-{cell['method']}", settings), positions)


def configure_budgets(measuring: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    measuring.add_argument(
        "--budgets", nargs="+", type=_budget, default=DEFAULT, metavar="STEPSxIMAGES"
    )
    measuring.add_argument("--bits", nargs="+", default=["w4a4"])
    measuring.add_argument("--method", default="qdrop")
    measuring.add_argument("--seeds", nargs="+", type=int, default=[1005, 1006, 1007])
    measuring.add_argument("--images", type=int, default=256, help="calibration crops")
    measuring.add_argument("--held-out", type=int, default=504, help="crops to compare on")
    measuring.add_argument("--device", default="cpu")


def measure_budgets(arguments: argparse.Namespace) -> None:
    """Measure and store every cell that has no result."""
    model = make_network(NETWORK, weights()).to(arguments.device)
    store = budgets_store(arguments.results)
    calibration, held_out = calibration_and_held_out(arguments.images, arguments.held_out)
    expected = answers(model, held_out, BATCH)
    axes = (arguments.seeds, arguments.bits, arguments.budgets)
    for seed, bits, budget in itertools.product(*axes):
        cell = {"network": NETWORK, "bits": bits, "method": arguments.method, "budget": budget}
        cell |= {"images": len(calibration), "held_out": len(held_out), "seed": seed}
        if cell in store:
            continue
        result = cell | nearness(recipe_of(cell), model, calibration, held_out, expected)
        store.add(result)
        print(bits, budget, seed, f"{result['divergence']:.4f}", flush=True)


def budgets_table(results: list[Result]) -> list[str]:
    """Return quality against work, one row for each budget, the most work first."""
    rows = []
    for (bits, method, name), cells in by_key(results, "bits", "method", "budget").items():
        figures = [
            statistics.mean(cell[figure] for cell in cells)
            for figure in ("divergence", "logit_difference", "agreement")
        ]
        values = [cell["divergence"] for cell in cells]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
        settings = cells[0]["recipe"]["reconstruct"]
        way = (
            "by default: " if name == AUTOMATIC else ""
        ) + f"{settings['steps']} steps of {settings['batch_size']} images"
        stage = cells[0]["recipe"]["network"]
        whole = settings["steps"] if stage["steps"] == "auto" else stage["steps"]
        work = settings["steps"] * settings["batch_size"], whole * settings["batch_size"]
        shown = f"{figures[0]:.3f} ± {error:.3f} ({len(cells)})", f"{figures[1]:.3f}"
        names = (bits, method, way, f"{whole} steps, {stage['learn']}")
        rows.append((sum(work), (*names, f"{sum(work):,}", *shown, f"{figures[2]:.1f}")))
    columns = (
        "bits | method | groups | network as a whole | images seen | KL | mean logit difference "
        "| agree with float (%)"
    )
    return table(columns, [row for _, row in sorted(rows, key=lambda one: (one[1][:2], -one[0]))])
