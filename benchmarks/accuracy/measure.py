"""Top-1 of a quantized network, and how near its answers are to the float network's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

import mrecg
from benchmarks.accuracy.cells import Run
from benchmarks.checkpoints import FOLDER as CHECKPOINTS
from benchmarks.provenance import commit
from mrecg.data.fashion_mnist import load_split
from mrecg.paper.networks import build, load_weights

__all__ = ["answers", "float_network", "measure", "measured", "percent_equal"]

REFERENCE_NETWORKS = {"resnet18s": "resnet18_small", "mbv2s": "mobilenetv2_small"}
IMAGE_SEED = 1005
"""Of the calibration images; a run's own seed decides batches and dropping."""


def float_network(name: str, reference: Path | None) -> nn.Module:
    """Return our own checkpoint, or the reference network of that name."""
    model = build(REFERENCE_NETWORKS.get(name, name))
    folder = reference if name in REFERENCE_NETWORKS else CHECKPOINTS
    if folder is None:
        raise SystemExit(f"The network {name} needs --reference FOLDER, where its checkpoint is.")
    load_weights(model, folder / f"{name}.safetensors")
    return model


def measure(
    run: Run, model: nn.Module, folder: Path, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Quantize and evaluate on the model's device; `folder` holds the data set's files."""
    images, _ = load_split("train", folder)
    chosen = np.random.RandomState(IMAGE_SEED).permutation(len(images))[: run.images]
    recipe = run.recipe(overrides)
    quantized = mrecg.quantize(model, images[torch.from_numpy(chosen)], recipe=recipe)
    record = quantized.record
    return {
        **run.fields(),
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
    """Return top-1 on the test images, in percent, and how near the answers are to the float network's.

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
def answers(model: nn.Module, images: Tensor, at_once: int = 250) -> Tensor:
    """Return the logits of all images, on the CPU; the images run in batches of `at_once` on the model's device."""
    device = next(iter([*model.parameters(), *model.buffers()])).device
    return torch.cat([model(part.to(device)).cpu() for part in images.split(at_once)])


def percent_equal(a: Tensor, b: Tensor) -> float:
    """Return how many of two tensors' values are equal."""
    return 100 * int((a == b).sum()) / len(a)
