"""An epoch of quantization-aware training from where a run ends: accuracy before and after.

    python -m benchmarks.training measure --reference FOLDER --work work     # FOLDER holds mbv2s.safetensors
    python -m benchmarks.training render                                     # docs/how-to/training.md

Measuring goes on where it was stopped, by `--minutes`, say: the run and the state of the training are in the folder `--work`.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mrecg
from benchmarks.accuracy.measure import IMAGE_SEED, float_network
from benchmarks.commands import Command, rendering, run_command
from benchmarks.provenance import commit
from benchmarks.store import Result
from benchmarks.training.render import training_store, write_page
from mrecg.data.fashion_mnist import DEBIAN_FOLDER, load_split
from mrecg.runs.files import is_finished
from mrecg.runs.folder import QuantizedModel
from mrecg.runs.places import RunPlace

BATCH = 128
EPOCH_SEED = 1


def _configure(measuring: argparse.ArgumentParser) -> None:
    measuring.add_argument("--reference", type=Path, required=True, help="folder of checkpoints")
    measuring.add_argument("--data", type=Path, default=DEBIAN_FOLDER)
    measuring.add_argument("--work", type=Path, required=True, help="folder of what is unfinished")
    measuring.add_argument("--network", default="mbv2s")
    measuring.add_argument("--preset", default="w2a2-qdrop-mrecg")
    measuring.add_argument("--images", type=int, default=256, help="that calibrate")
    measuring.add_argument("--device", default="cpu")
    measuring.add_argument("--steps", type=int, help="per group; else those of the preset")
    measuring.add_argument("--train-images", type=int, default=60_000)
    measuring.add_argument("--test-images", type=int, default=10_000)
    measuring.add_argument("--rate", type=float, default=1e-3)
    measuring.add_argument(
        "--minutes", type=float, default=4, help="of this call, until it stops training"
    )


def _measure(arguments: argparse.Namespace) -> None:
    started = time.perf_counter()
    names = ("network", "preset", "steps", "images", "train_images", "test_images", "rate")
    cell = {name: getattr(arguments, name) for name in names}
    store = training_store(arguments.results)
    if cell in store:
        return
    images, labels = load_split("train", arguments.data)
    test = [one[: arguments.test_images] for one in load_split("test", arguments.data)]
    batches = list(zip(test[0].split(250), test[1].split(250), strict=True))
    quantized = _run(cell, arguments, images)
    work = arguments.work / "-".join(map(str, cell.values()))
    count, until = arguments.train_images, started + 60 * arguments.minutes
    chosen = images[-count:], labels[-count:]
    device = torch.device(arguments.device)
    trained = _train(quantized, *chosen, arguments.rate, work, until, device)
    if trained is None:
        print("unfinished; call again to go on")
        return
    module, seconds = trained
    before = mrecg.evaluate(float_network(arguments.network, arguments.reference), batches)
    after = mrecg.evaluate(module, batches)
    found = mrecg.from_trained(module, accuracy=after, float_accuracy=before)
    assert found.record.training is not None
    path = Path(f"{work}.onnx")
    path.unlink(missing_ok=True)
    mrecg.export_onnx(found, path)
    verified = mrecg.verify_onnx(found, path, test[0][:256], repeats=0)
    result: Result = {
        **cell,
        "float": before.top1,
        "before": mrecg.evaluate(quantized.model, batches).top1,
        "after": after.top1,
        "verified": verified.top1_agreement_ties_apart,
        "changed": found.record.training.changed / found.record.training.codes,
        "seconds": {"reconstruction": sum(quantized.record.seconds.values()), "epoch": seconds},
        "commit": commit(),
        "recipe": quantized.recipe.model_dump(mode="json"),
        "environment": quantized.record.environment,
    }
    store.add(result)


def _run(cell: dict[str, Any], arguments: argparse.Namespace, images: Tensor) -> QuantizedModel:
    """Return the finished run, or make it."""
    name = "-".join(str(cell[key]) for key in ("network", "preset", "steps", "images"))
    folder = arguments.work / name
    if is_finished(folder):
        return mrecg.load(folder)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(IMAGE_SEED))
    model = float_network(arguments.network, arguments.reference).to(arguments.device)
    chosen = images[order[: arguments.images]]
    if RunPlace(folder).is_started:
        return mrecg.resume(folder, model, chosen)
    steps = {} if arguments.steps is None else {"reconstruct.steps": arguments.steps}
    recipe = mrecg.preset(arguments.preset, steps)
    return mrecg.quantize(model, chosen, recipe=recipe, folder=folder)


def _train(
    quantized: QuantizedModel,
    images: Tensor,
    labels: Tensor,
    rate: float,
    work: Path,
    until: float,
    device: torch.device,
) -> tuple[nn.Module, float] | None:
    """Train an epoch with Adam, the rate falling by a cosine; `None` where it is `until` before the end."""
    module = quantized.trainable().to(device)
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(EPOCH_SEED))
    batches = order.split(BATCH)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    step, spent = 0, 0.0
    kept = Path(f"{work}.pt")
    if kept.exists():
        found = torch.load(kept, weights_only=True, map_location=device)
        step, spent = found["step"], found["seconds"]
        for name, one in (("module", module), ("optimizer", optimizer), ("decay", decay)):
            one.load_state_dict(found[name])
    started = time.perf_counter()
    for batch in batches[step:]:
        if time.perf_counter() > until:
            break
        loss = cross_entropy(module(images[batch].to(device)), labels[batch].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        step += 1
    spent += time.perf_counter() - started
    states: dict[str, Any] = {"module": module, "optimizer": optimizer, "decay": decay}
    torch.save(
        {name: one.state_dict() for name, one in states.items()} | {"step": step, "seconds": spent},
        kept,
    )
    print(f"step {step} of {len(batches)}, {spent:.0f} seconds")
    return (module.cpu().eval(), spent) if step == len(batches) else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name."""
    commands = [
        Command("measure", _configure, _measure),
        rendering("how-to/training.md", write_page),
    ]
    run_command(__doc__, commands, arguments, threads=1)


if __name__ == "__main__":
    main()
