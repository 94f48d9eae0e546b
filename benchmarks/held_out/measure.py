"""How near a quantized network is to the float one on training images that calibrated nothing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

import mrecg
from benchmarks.accuracy.cells import NETWORKS
from benchmarks.accuracy.measure import IMAGE_SEED, answers, percent_equal
from benchmarks.held_out.trials import generated_images, trial
from benchmarks.held_out.variants import VARIANTS, Variant
from benchmarks.provenance import commit
from mrecg.cache.storage import Storage
from mrecg.config.recipe import Recipe
from mrecg.data.fashion_mnist import load_split
from mrecg.graph.inputs import ModelInputs
from mrecg.graph.units import Unit
from mrecg.optimize import all_groups
from mrecg.optimize.judge import Judge
from mrecg.paper.published import PAPER_NETWORKS
from mrecg.preparation.judging import mirror, split_counts
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.quantizers.state import QuantizerState

__all__ = ["judge_joins", "measure_variant"]

HELD_OUT = 4000
"""Training images, the last of the permutation that the calibration images are the first of."""
SLICE = 32
"""Images that are set aside to judge joins: an eighth of 256."""


class Images:
    """Training images in the order of the calibration set's permutation."""

    def __init__(self, folder: Path) -> None:
        self._images, labels = load_split("train", folder)
        order = np.random.RandomState(IMAGE_SEED).permutation(len(self._images))
        self._order = torch.from_numpy(order)
        self.labels = labels[self._order]

    def __getitem__(self, part: slice) -> Tensor:
        return self._images[self._order[part]]


def recipe_of(network: str, bits: str, variant: str, steps: int, seed: int) -> Recipe:
    """Return the recipe of a variant at a budget; λ is the paper's for the network."""
    chosen = VARIANTS[variant]
    budget = {
        "seed": seed,
        "reconstruct.steps": round(steps * chosen.steps),
        "reconstruct.penalty": PAPER_NETWORKS[NETWORKS[network]].penalty,
    }
    return mrecg.preset(f"{bits}-{chosen.method}", {**budget, **chosen.settings})


def measure_variant(
    model: nn.Module, folder: Path, images: int, recipe: Recipe, variant: Variant
) -> dict[str, Any]:
    """Quantize by a variant's recipe, and compare with the float network on held-out images."""
    given = Images(folder)
    calibration = given[:images]
    if variant.generated:
        groups = {"reconstruct.images": split_counts(images, recipe).groups}
        recipe = recipe.override(groups)
        more = generated_images(model, tuple(calibration.shape[1:]))
        calibration = torch.cat([calibration, more])
    with trial(variant.trial):
        quantized = mrecg.quantize(model, calibration, recipe=recipe, progress=False)
    record = quantized.record
    held_out = given[-HELD_OUT:]
    ours, wanted = answers(quantized.model, held_out), answers(model.eval(), held_out)
    predictions = ours.log_softmax(1), wanted.log_softmax(1)
    found = record.network
    return {
        "divergence": float(kl_div(*predictions, reduction="batchmean", log_target=True)),
        "agreement": percent_equal(ours.argmax(1), wanted.argmax(1)),
        "joins": [join.model_dump() | {"gain": join.gain} for join in record.plan.joins],
        "joined": record.plan.joined,
        "losses": {unit.name: unit.relative_loss for unit in record.units},
        "steps_taken": [group.steps for group in record.groups],
        "largest_loss": record.oscillation.largest_loss,
        "stage": None if found is None else found.model_dump(),
        "seconds": record.seconds,
        "commit": commit(),
        "recipe": recipe.model_dump(mode="json"),
        "environment": record.environment,
    }


def judge_joins(
    model: nn.Module, folder: Path, images: int, recipe: Recipe
) -> list[dict[str, Any]]:
    """Return, for every join that a recipe tries, its gain on several sets of images.

    Mirrored calibration images decide, as where scales are learned. `slice` is a few images that calibrate nothing; `truth` is the
    held-out images.
    """
    given = Images(folder)
    tuned, aside = given[:images], given[images : images + SLICE]
    judges: dict[str, ModelInputs] = {
        "mirrored": mirror(tuned),
        "slice": aside,
        "tuned": tuned,
        "truth": given[-HELD_OUT:],
    }
    with _several_judges(judges) as losses:
        joins = mrecg.quantize(model, tuned, recipe=recipe, progress=False).record.plan.joins
    trials = zip(joins, losses[::2], losses[1::2], strict=True)
    return [
        {"units": join.units} | {name: 1 - joint[name] / alone[name] for name in judges}
        for join, alone, joint in trials
    ]


@contextmanager
def _several_judges(judges: dict[str, ModelInputs]) -> Iterator[list[dict[str, float]]]:
    """Let several sets of images judge, the first of which decides; yield their losses, two for each join."""
    losses: list[dict[str, float]] = []

    class Several(Judge):
        def __init__(self, prepared: PreparedGraph, images: ModelInputs, storage: Storage) -> None:
            first, *rest = judges
            super().__init__(prepared, judges[first], storage)
            self.others = {
                name: Judge(prepared, judges[name], Storage(prepared.device)) for name in rest
            }
            self.name = first

        def run_float(self, members: Sequence[Unit]) -> None:
            for judge in self.others.values():
                judge.run_float(members)
            super().run_float(members)

        def run_quantized(
            self, members: Sequence[Unit], state: QuantizerState, keep: bool
        ) -> float:
            found = {
                name: judge.run_quantized(members, state, keep)
                for name, judge in self.others.items()
            }
            decides = super().run_quantized(members, state, keep)
            if not keep:
                losses.append({self.name: decides, **found})
            return decides

        def drop(self, members: Sequence[Unit]) -> None:
            for judge in self.others.values():
                judge.drop(members)
            super().drop(members)

    with mock.patch.object(all_groups, "Judge", Several):
        yield losses
