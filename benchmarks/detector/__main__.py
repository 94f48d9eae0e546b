"""A detector from end to end: MTCNN's faces in ONNX Runtime, quantized, against the float network.

    pip install --no-deps --constraint constraints.txt torchvision facenet-pytorch insightface ultralytics nudenet
    pip install --editable ".[benchmarks,onnx]"
    python -m benchmarks.detector measure --methods w8a8-rtn w4a8-rtn w4a8-qdrop
    python -m benchmarks.detector speed           # of a larger one: the network of RetinaNet
    python -m benchmarks.detector file            # a detector that comes as an ONNX file
    python -m benchmarks.detector render          # docs/detector.md
    python -m benchmarks.detector draw            # docs/pictures/faces.jpg

insightface and ultralytics are needed for photographs only. Methods that have a result are skipped.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import mrecg
from benchmarks.architectures.examine import settle
from benchmarks.architectures.torchvision_import import import_torchvision
from benchmarks.architectures.zoo import make_from_zoo
from benchmarks.commands import Command, rendering, run_command
from benchmarks.detector import files
from benchmarks.detector.cascade import (
    STAGES,
    File,
    Recorder,
    calibration_photographs,
    faces,
    float_stages,
    held_out_photographs,
)
from benchmarks.detector.render import (
    PICTURE,
    detector_store,
    draw_faces,
    file_store,
    speed_store,
    write_detector,
)
from benchmarks.provenance import ONNX_PACKAGES, commit, versions
from benchmarks.store import Result
from benchmarks.tables import DOCS
from mrecg.export.onnx.runtimes import Run, interleaved_seconds, open_file

LOWER_THRESHOLDS = (0.6, 0.3, 0.7)
"""While calibration images are collected: O-Net sees more than what R-Net is sure of."""
PACKAGES = ("torch", "torchao", "facenet-pytorch", *ONNX_PACKAGES)
SEED = 1005


def _configure(measuring: argparse.ArgumentParser) -> None:
    measuring.add_argument("--methods", nargs="+", default=["w8a8-rtn", "w4a8-rtn", "w4a8-qdrop"])
    measuring.add_argument("--steps", type=int, default=500, help="of each unit")
    measuring.add_argument("--images", type=int, default=256, help="for each network")
    measuring.add_argument("--repeats", type=int, default=20, help="timed runs")


def calibration_images(stages: Mapping[str, nn.Module], count: int) -> dict[str, Tensor]:
    """Return what each network is given on the photographs for calibration: of P-Net's inputs a random part each."""
    recorders = {name: Recorder(network) for name, network in stages.items()}
    for image in calibration_photographs():
        faces(recorders, image, LOWER_THRESHOLDS)
    rng, found = np.random.RandomState(SEED), {}
    for name, recorder in recorders.items():
        side = STAGES[name][1]
        given = [one for one in recorder.given if min(one.shape[2:]) >= side]
        if name == "PNet":
            chosen = [given[index] for index in rng.randint(len(given), size=count)]
            places = [[rng.randint(size - side + 1) for size in one.shape[2:]] for one in chosen]
            found[name] = torch.cat(
                [
                    one[:, :, top : top + side, left : left + side]
                    for one, (top, left) in zip(chosen, places, strict=True)
                ]
            )
        else:
            every = torch.cat(given)
            found[name] = every[torch.from_numpy(rng.permutation(len(every))[:count])]
    return found


def _write_float(name: str, network: nn.Module, path: Path) -> File:
    sizes: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}
    if name == "PNet":
        sizes |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    image = torch.randn(2, *STAGES[name])
    torch.onnx.export(network, (image,), path, dynamo=True, dynamic_shapes=(sizes,), verbose=False)
    return File(path)


def _stage(
    name: str, network: nn.Module, images: Tensor, recipe: mrecg.Recipe, path: Path
) -> tuple[File, Result]:
    """Quantize a network and return its file and what verifying it showed."""
    quantized = mrecg.quantize(network, images, recipe=recipe)
    mrecg.export_onnx(quantized, path, dynamic_size=name == "PNet")
    verified = mrecg.verify_onnx(quantized, path, images[:32], repeats=0)
    return File(path), {
        "images": len(images),
        "integer_layers": verified.integer_layers,
        "float_layers": verified.float_layers,
        "difference": verified.largest_difference,
        "left_in_float": quantized.record.left_in_float,
        "bytes": path.stat().st_size,
    }


def _speeds(
    plain: Mapping[str, File],
    quantized: Mapping[str, File],
    given: Mapping[str, list[Tensor]],
    repeats: int,
) -> dict[str, dict[str, float]]:
    """Return the median seconds of both for all held-out inputs, measured in turns."""
    speeds = {}
    for name, inputs in given.items():
        pairs = [
            (plain[name].seconds(inputs), quantized[name].seconds(inputs)) for _ in range(repeats)
        ]
        seconds, quantized_seconds = (median(one) for one in zip(*pairs, strict=True))
        ratio = median(one / other for one, other in pairs)
        speeds[name] = {"float": seconds, "quantized": quantized_seconds, "ratio": ratio}
    totals = {kind: sum(one[kind] for one in speeds.values()) for kind in ("float", "quantized")}
    speeds["all"] = totals | {"ratio": totals["float"] / totals["quantized"]}
    return speeds


def _measure(arguments: argparse.Namespace) -> None:
    torch.manual_seed(SEED)
    store, stages = detector_store(arguments.results), float_stages()
    images, photographs = calibration_images(stages, arguments.images), held_out_photographs()
    with tempfile.TemporaryDirectory() as folder:
        plain = {
            name: _write_float(name, network, Path(folder) / f"{name}.onnx")
            for name, network in stages.items()
        }
        recorders = {name: Recorder(file) for name, file in plain.items()}
        boxes = {name: faces(recorders, image).tolist() for name, image in photographs.items()}
        given = {name: recorder.given for name, recorder in recorders.items()}
        for method in arguments.methods:
            cell = {"detector": "MTCNN", "method": method}
            if cell in store:
                continue
            settings: dict[str, Any] = {"seed": SEED}
            if not method.endswith("rtn"):
                settings["reconstruct.steps"] = arguments.steps
            recipe = mrecg.preset(method, settings).for_backend("onnxruntime")
            made, found = {}, {}
            for name, network in stages.items():
                path = Path(folder) / f"{name}-{method}.onnx"
                made[name], found[name] = _stage(name, network, images[name], recipe, path)
            store.add(
                cell
                | {
                    "stages": found,
                    "float_boxes": boxes,
                    "boxes": {
                        name: faces(made, image).tolist() for name, image in photographs.items()
                    },
                    "seconds": _speeds(plain, made, given, arguments.repeats),
                    "repeats": arguments.repeats,
                    "commit": commit(),
                    "recipe": recipe.model_dump(mode="json"),
                    "environment": versions(PACKAGES),
                }
            )
            print(f"{method}: measured", flush=True)


def _configure_speed(speed: argparse.ArgumentParser) -> None:
    speed.add_argument("--side", type=int, default=256)
    speed.add_argument("--repeats", type=int, default=9)


def _speed(arguments: argparse.Namespace) -> None:
    """Time the network of a larger detector; its weights are random, which its speed does not depend on."""
    import_torchvision()
    torch.manual_seed(SEED)
    network, images = make_from_zoo("retinanet"), torch.randn(4, 3, *[arguments.side] * 2)
    settle(network, images)
    recipe = mrecg.preset("w8a8-rtn").for_backend("onnxruntime")
    quantized = mrecg.quantize(network, images, recipe=recipe)
    with tempfile.TemporaryDirectory() as folder:
        path = mrecg.export_onnx(quantized, Path(folder) / "retinanet.onnx")
        verified = mrecg.verify_onnx(quantized, path, images, repeats=arguments.repeats)
    speed_store(arguments.results).add(
        {
            "network": "RetinaNet on ResNet-18",
            "side": arguments.side,
            "repeats": arguments.repeats,
            "verification": verified.model_dump(mode="json"),
            "commit": commit(),
            "recipe": recipe.model_dump(mode="json"),
            "environment": versions(PACKAGES),
        }
    )
    print(f"RetinaNet: {verified.runtimes[0].speed:.2f} times as fast as float")


def _configure_file(measuring: argparse.ArgumentParser) -> None:
    measuring.add_argument("--methods", nargs="+", default=["w8a8-rtn", "w4a8-rtn"])
    measuring.add_argument("--images", type=int, default=48)
    measuring.add_argument("--repeats", type=int, default=30, help="timed runs")


def _measure_file(arguments: argparse.Namespace) -> None:
    """Quantize a detector that comes as an ONNX file, and compare its faces and its speed with the file's."""
    store, path = file_store(arguments.results), files.network_file()
    network = mrecg.from_onnx(path, (3, files.SIDE, files.SIDE))
    photographs = held_out_photographs()
    given = files.squares(photographs.values())
    calibration = files.calibration_images(arguments.images)
    plain = open_file("onnxruntime", path)

    def boxes(run: Run) -> dict[str, list[list[float]]]:
        every = zip(photographs, given.split(1), strict=True)
        return {name: files.faces_in(run(one.numpy())[0][0]) for name, one in every}

    for method in arguments.methods:
        cell = {"detector": files.NAME, "method": method}
        if cell in store:
            continue
        recipe = mrecg.preset(method, {"seed": SEED}).for_backend("onnxruntime")
        quantized = mrecg.quantize(network, calibration, recipe=recipe)
        with tempfile.TemporaryDirectory() as folder:
            file = mrecg.export_onnx(quantized, Path(folder) / "detector.onnx")
            verified = mrecg.verify_onnx(quantized, file, given[:2], repeats=0)
            run = open_file("onnxruntime", file)
            times = interleaved_seconds([plain, run], given[:1].numpy(), arguments.repeats)
            found = boxes(run)
        store.add(
            cell
            | {
                "images": len(calibration),
                "float_boxes": boxes(plain),
                "boxes": found,
                "seconds": dict(
                    zip(("float", "quantized"), (one for one, _ in times), strict=True)
                ),
                "repeats": arguments.repeats,
                "verification": verified.model_dump(mode="json"),
                "classes": files.CLASSES,
                "left_in_float": quantized.record.left_in_float,
                "commit": commit(),
                "recipe": recipe.model_dump(mode="json"),
                "environment": versions((*PACKAGES, "nudenet")),
            }
        )
        print(f"{method}: measured", flush=True)


def _draw(arguments: argparse.Namespace) -> None:
    photographs = held_out_photographs()
    image: Image.Image = photographs[PICTURE]
    draw_faces(arguments.results, image, arguments.picture)
    print(f"drawn into {arguments.picture}")


def _configure_drawing(drawing: argparse.ArgumentParser) -> None:
    drawing.add_argument("--picture", type=Path, default=DOCS / "pictures" / "faces.jpg")


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    commands = (
        Command("measure", _configure, _measure),
        rendering("detector.md", write_detector),
        Command("speed", _configure_speed, _speed),
        Command("file", _configure_file, _measure_file),
        Command("draw", _configure_drawing, _draw),
    )
    run_command(__doc__, commands, given, threads=1)


if __name__ == "__main__":
    main()
