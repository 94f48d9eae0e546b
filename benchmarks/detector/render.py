"""The page `docs/detector.md` and its picture."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.store import Result, Store
from benchmarks.tables import table, with_lead

__all__ = [
    "PICTURE",
    "detector_store",
    "draw_faces",
    "file_store",
    "matched",
    "overlap",
    "speed_store",
    "write_detector",
]

PICTURE = "astronaut.png"
"""NASA's, in the public domain."""
PART, ENLARGED = (130, 20, 190, 190), 3
"""What is drawn: left, top, width and height, and how many times as large."""
COLORS = ("#ffffff", "#3b7dd8", "#d9731a")
CERTAIN, CERTAIN_IN_FILE = 0.9, 0.5
"""Score of a face that the float detector is sure of: MTCNN, and the one from a file."""
LEAST_OVERLAP = 0.5
"""Intersection over union of a box and the same face's."""
HEADER = """# A detector from end to end

Written by `python -m benchmarks.detector render` from `benchmarks/results/detector.jsonl`, made by
`python -m benchmarks.detector measure`. The detector is MTCNN with the weights that facenet-pytorch ships. It consists of three
networks: P-Net looks at every place of an image at many sizes, R-Net at what P-Net proposes, O-Net at what is left. Each is
quantized, exported and verified alone, and runs in ONNX Runtime; P-Net's file takes any size (`dynamic_size=True`).
What is between the networks (cutting, resizing, suppression of overlaps) stays as the package has it. A network of your own
goes the same way: [Quantize a detector](how-to/detectors.md).

![Boxes of the float detector and of two quantized ones around a face](pictures/faces.jpg)

*White: float. Blue: W8A8. Orange: W4A8, reconstructed. Photograph: NASA, public domain, as scikit-image ships it.*

## Faces

The float detector's boxes are the truth; *certain* are those with a score of 0.9 or more, and among the others are things that
are no faces. A face is found if a box overlaps it by at least half (intersection over union).
"""
PHOTOGRAPHS = """
Calibration: the inputs that the float detector gives each network on {count} images or parts of images each: foolbox's 20
images of ImageNet, seven photographs of scikit-image, scikit-learn and matplotlib that are not compared on, and a sheet
of the 100 small gray faces that scikit-image ships. Compared on: {photographs}, each also mirrored. These are few faces and no
benchmark of face detection; they show that a cascade, in which every network's errors reach the next, survives.
"""
LARGER = """
## A larger detector

MTCNN's small networks are slower in integers: its first convolution has ten channels, so products are few, and rounding takes
time itself. What a detector of usual size gains is measured on the network of RetinaNet (torchvision's, W8A8 to nearest, all of its maps returned, one
thread, in turns with float). Its weights are random, which speed does not depend on.
"""
FROM_FILE = """
## A detector that comes as a file

YOLOv8n as nudenet's wheel ships it: an ONNX file with trained weights, read by `mrecg.from_onnx`, quantized, exported, and run in ONNX
Runtime. Its {classes} classes hold two of faces, which are counted as above on the same photographs; *certain* are those with a score of {certain} or
more, because this network's scores are lower. Calibration: {images} views of the photographs above and of single faces that insightface ships. The same boxes are
decoded and suppressed behind both files. One thread, the package's file and the quantized one in turns, median of {repeats}
runs of one image.
"""
SPEED = """
## Speed and layers

One thread, no batches but the cascade's own, the float and the quantized file in turns on the same inputs: those that the float
detector gives each network on the photographs. Median of {repeats} runs. Times depend on the machine, ratios less so.
"""


def detector_store(folder: Path) -> Store:
    """Return the results of this benchmark."""
    return Store("detector", ("detector", "method"), folder)


def speed_store(folder: Path) -> Store:
    """Return the speed of larger detectors' networks."""
    return Store("detector_speed", ("network", "side"), folder)


def file_store(folder: Path) -> Store:
    """Return the results of detectors that come as ONNX files."""
    return Store("detector_file", ("detector", "method"), folder)


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection over union of two boxes: left, top, right, bottom."""
    a, b = np.asarray(one[:4]), np.asarray(other[:4])
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    total = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared
    return shared / total if total else 0.0


def matched(wanted: Sequence[Sequence[float]], found: Sequence[Sequence[float]]) -> list[float]:
    """Return the overlap of each wanted box that was found; a found box counts once, the best pairs first."""
    pairs = sorted(
        ((overlap(a, b), i, j) for i, a in enumerate(wanted) for j, b in enumerate(found)),
        reverse=True,
    )
    used: set[tuple[str, int]] = set()
    overlaps = []
    for value, i, j in pairs:
        if value >= LEAST_OVERLAP and not {("wanted", i), ("found", j)} & used:
            used |= {("wanted", i), ("found", j)}
            overlaps.append(value)
    return overlaps


def _faces_row(result: Result, threshold: float = CERTAIN) -> list[object]:
    overlaps: list[float] = []
    wanted = found = certain = certain_found = 0
    for name, boxes in result["float_boxes"].items():
        sure = [box for box in boxes if box[4] >= threshold]
        certain += len(sure)
        certain_found += len(matched(sure, result["boxes"][name]))
        overlaps += matched(boxes, result["boxes"][name])
        wanted, found = wanted + len(boxes), found + len(result["boxes"][name])
    shown = [f"{mean(overlaps):.3f}", f"{min(overlaps):.3f}"] if overlaps else ["", ""]
    counts = [f"{certain_found} of {certain}", f"{len(overlaps)} of {wanted}"]
    return [result["method"], *counts, found - len(overlaps), *shown]


def _share(result: Result) -> tuple[int, int]:
    stages = result["stages"].values()
    integer = sum(len(one["integer_layers"]) for one in stages)
    return integer, integer + sum(len(one["float_layers"]) for one in stages)


def _speed_rows(result: Result) -> list[list[object]]:
    rows: list[list[object]] = []
    for name, seconds in result["seconds"].items():
        if name == "all":
            integer, layers = _share(result)
        else:
            integer = len(result["stages"][name]["integer_layers"])
            layers = integer + len(result["stages"][name]["float_layers"])
        times = [f"{1000 * seconds[kind]:.0f}" for kind in ("float", "quantized")]
        rows.append(
            [result["method"], name, f"{integer} of {layers}", *times, f"{seconds['ratio']:.2f}"]
        )
    return rows


def _larger_rows(results: list[Result]) -> list[list[object]]:
    rows: list[list[object]] = []
    for result in results:
        found = result["verification"]
        integer, layers = (
            len(found["integer_layers"]),
            len(found["integer_layers"]) + len(found["float_layers"]),
        )
        for runtime in found["runtimes"]:
            if runtime["seconds"] is None:
                continue
            times = [1000 * runtime[kind] for kind in ("float_seconds", "seconds")]
            shown = [*(f"{one:.0f}" for one in times), f"{times[0] / times[1]:.2f}"]
            share = f"{integer} of {layers} ({100 * integer / layers:.0f} %)"
            rows.append([result["network"], result["side"], runtime["name"], share, *shown])
    return rows


def _larger_sentence(result: Result) -> str:
    ((network, _, _, share, *_, ratio), *_) = _larger_rows([result])
    return f"{network}: {share} layers in integers, {ratio} times as fast as float."


def _file_row(result: Result) -> list[object]:
    found, seconds = result["verification"], result["seconds"]
    integer = len(found["integer_layers"])
    layers = integer + len(found["float_layers"]) - len(result["left_in_float"])
    share = f"{integer} of {layers} ({100 * integer / layers:.1f} %)"
    times = [1000 * seconds[kind] for kind in ("float", "quantized")]
    speed = [*(f"{one:.0f}" for one in times), f"{times[0] / times[1]:.2f}"]
    return [*_faces_row(result, CERTAIN_IN_FILE), share, *speed]


def _file_section(results: list[Result]) -> list[str]:
    if not results:
        return []
    first = results[0]
    columns = (
        "method | found of the certain | of all | other boxes | mean overlap | smallest overlap | in integers | float (ms) | "
        "quantized (ms) | times as fast"
    )
    text = FROM_FILE.format(
        certain=CERTAIN_IN_FILE, **{name: first[name] for name in ("classes", "images", "repeats")}
    )
    fixed = "The integral over the distributions of box sides has no learned weight and is not counted as a layer."
    return [text, *table(columns, [_file_row(one) for one in results]), "", fixed]


def _file_sentence(result: Result) -> str:
    row = _file_row(result)
    return f"{result['detector']} from an ONNX file, {row[0]}: {row[1]} (mean overlap {row[4]}), {row[6]} layers in integers, {row[9]} times as fast as float."


def _lead(results: list[Result]) -> str:
    rows = {result["method"]: _faces_row(result) for result in results}
    shown = [f"{method} finds {row[1]} (mean overlap {row[4]})" for method, row in rows.items()]
    ratios = [float(result["seconds"]["all"]["ratio"]) for result in results]
    return (
        f"Of the faces that the float detector is sure of, {', '.join(shown)}. These small networks run at "
        f"{min(ratios):.2f} to {max(ratios):.2f} times the speed of float."
    )


def write_detector(folder: Path, page: Path) -> int:
    """Write the page from the results in a folder, and return how many results it shows."""
    results = detector_store(folder).read()
    if not results:
        raise SystemExit(f"There are no results in {folder}; run the benchmark first.")
    results.sort(key=lambda result: str(result["method"]), reverse=True)
    first = results[0]
    names = [name for name in first["float_boxes"] if "mirrored" not in name]
    count = max(one["images"] for one in first["stages"].values())
    faces_columns = (
        "method | found of the certain | of all | other boxes | mean overlap | smallest overlap"
    )
    speed_columns = "method | network | in integers | float (ms) | quantized (ms) | times as fast"
    floats = sorted({layer for one in first["stages"].values() for layer in one["float_layers"]})
    commits = sorted({result["commit"] for result in results})
    versions = ", ".join(f"{name} {version}" for name, version in first["environment"].items())
    larger = speed_store(folder).read()
    from_file = sorted(
        file_store(folder).read(), key=lambda result: str(result["method"]), reverse=True
    )
    said = [*map(_larger_sentence, larger), *map(_file_sentence, from_file[:1])]
    lead = " ".join([_lead(results), *said])
    lines = [
        with_lead(HEADER, lead),
        *table(faces_columns, [_faces_row(result) for result in results]),
        PHOTOGRAPHS.format(count=count, photographs=", ".join(names)),
        SPEED.format(repeats=first["repeats"]),
        *table(speed_columns, [row for result in results for row in _speed_rows(result)]),
        f"\nIn float: {', '.join(floats)}." if floats else "",
        LARGER,
        *table(
            "network | side | runtime | in integers | float (ms) | quantized (ms) | times as fast",
            _larger_rows(larger),
        ),
        *_file_section(from_file),
        f"\nCommits: {', '.join(commits)}. Versions: {versions}.",
    ]
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(results)


def draw_faces(folder: Path, photograph: Image.Image, picture: Path) -> None:
    """Draw the boxes of float, W8A8 and W4A8 into a photograph."""
    results = {result["method"]: result for result in detector_store(folder).read()}
    left, top, width, height = PART
    size = (width * ENLARGED, height * ENLARGED)
    drawn = photograph.resize(size, box=(left, top, left + width, top + height))
    pen = ImageDraw.Draw(drawn)
    shown = [
        results["w8a8-rtn"]["float_boxes"],
        *(results[method]["boxes"] for method in ("w8a8-rtn", "w4a8-qdrop")),
    ]
    for boxes, color in zip(shown, COLORS, strict=True):
        for box in boxes[PICTURE]:
            sides = np.reshape(box[:4], (2, 2)) - (left, top)
            pen.rectangle((sides * ENLARGED).flatten().tolist(), outline=color, width=2)
    drawn.save(picture, quality=85)
