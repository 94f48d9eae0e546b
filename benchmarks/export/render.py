"""The tables of `docs/export.md`."""

from pathlib import Path

from benchmarks.store import Result, Store
from benchmarks.tables import folded, table, with_lead

__all__ = ["export_store", "write_export"]

HEADER = """# Exported files

Written by `python -m benchmarks.export render` from `benchmarks/results/export.jsonl`, where each result names its commit,
machine and versions. Made by `python -m benchmarks.export measure` (the packaged network, the 2,000 packaged test images) and
`python -m benchmarks.export measure --speed` (ResNet-18 at 224², random weights). Everything is rounded to nearest: what a file
computes does not depend on how its roundings were chosen.

- *academic*: the papers' placement, asymmetric weights; a convolution whose result is added to a shortcut has no quantizer
  behind it and stays in float. The others are backends: operands of additions are quantized, too, weights are symmetric.
  Where a backend holds narrower codes than named (`openvino`: 7-bit weights), those are used. All files ran in ONNX Runtime.
- *ties*: codes that the file and the simulation round to different sides, given the same codes before; such a number is
  between two codes to the last digit, and programs that add floats in different order differ there.
- *top-1 agreement* and *difference* are ties apart: with the file's codes behind every quantizer of the simulation. In
  brackets: ties included, from the images to the logits.
- *difference* is the largest of a logit in units of the output's resolution, which is the largest change of a
  logit by one code of the last layer's input.
- *ideal* is codes and zero points in their bits, scales and all else in 32 bits.
"""


def equality_table(results: list[Result]) -> list[str]:
    rows = []
    for result in results:
        found = result["verification"]
        runtime = found["runtimes"][0]
        integer, total = len(found["integer_layers"]), len(found["float_layers"])
        row = (
            *(result[key] for key in ("network", "bits", "placement", "layout")),
            found["images"],
            f"{found['top1_agreement_ties_apart']:.2f} % ({found['top1_agreement']:.2f} %)",
            f"{found['largest_difference']:.4f} ({runtime['largest_difference']:.2g})",
            f"{found['different_codes']} of {found['codes']:.1e}",
            f"{integer} of {integer + total}",
        )
        rows.append(row)
    return table(
        "network | bits | placement | layout | images | top-1 agreement | difference | ties | layers in integers",
        rows,
    )


def size_table(results: list[Result]) -> list[str]:
    rows = []
    for result in results:
        if result["placement"] != "academic" and result["network"] != "resnet18":
            continue
        found, folder = result["verification"], result["run_folder"]
        ideal = found["ideal_bytes"]
        row = (
            *(result[key] for key in ("network", "bits", "layout")),
            f"{found['file_bytes'] / 1e3:.0f} kB",
            f"{ideal / 1e3:.0f} kB",
            f"{found['file_bytes'] / ideal:.3f}",
            f"{sum(folder.values()) / 1e3:.0f} kB",
            f"{folder['model.safetensors'] / ideal:.3f}",
        )
        rows.append(row)
    return table(
        "network | bits | layout | file | ideal | file / ideal | run folder | tensors of it / ideal",
        rows,
    )


def speed_table(results: list[Result]) -> list[str]:
    rows = []
    for result in results:
        if result["placement"] != "onnxruntime":
            continue
        for runtime in result["verification"]["runtimes"]:
            row = [*(result[key] for key in ("network", "bits", "layout")), runtime["name"]]
            if runtime["seconds"] is None:
                row += ["cannot load it", "", "", ""]
            else:
                ratio = runtime["float_seconds"] / runtime["seconds"]
                row += [
                    f"{1e3 * runtime['seconds']:.2f} ± {1e3 * runtime['spread']:.2f} ms",
                    f"{1e3 * runtime['float_seconds']:.2f} ± {1e3 * runtime['float_spread']:.2f} ms",
                    f"{ratio:.2f}",
                    f"{runtime['largest_difference']:.3g}",
                ]
            rows.append(row)
    return table(
        "network | bits | layout | runtime | one image | float | times as fast | largest difference, ties included",
        rows,
    )


def export_store(folder: Path) -> Store:
    """Return the results of this benchmark."""
    return Store("export", ("network", "bits", "placement", "layout"), folder)


def _lead(results: list[Result]) -> str:
    """Return the page in a sentence: how equal files are, and what integers gain on the large network."""
    agreement = min(one["verification"]["top1_agreement_ties_apart"] for one in results)
    fast = [
        (runtime["float_seconds"] / runtime["seconds"], one)
        for one in results
        for runtime in one["verification"]["runtimes"][:1]
        if one["network"] == "resnet18" and one["layout"] == "int8" and runtime["seconds"]
    ]
    equal = f"Ties apart, every file gives the simulation's class for at least {agreement:.2f} % of the images"
    if not fast:
        return f"{equal}."
    ratio, one = min(fast, key=lambda found: found[0])
    return f"{equal}; {one['network']} at {one['bits']} is {ratio:.1f} times as fast as float in ONNX Runtime (layout int8, one thread)."


def write_export(folder: Path, page: Path) -> int:
    """Write the page from the results in a folder, and return how many results it shows."""
    results = export_store(folder).read()
    if not results:
        raise SystemExit(f"There are no results in {folder}; run the benchmark first.")
    commits = sorted({result["commit"] for result in results})
    machines = sorted(
        {
            f"{e['machine']}, torch {e['torch']}, onnx {e['onnx']}, onnxruntime {e['onnxruntime']}"
            for e in (result["environment"] for result in results)
        }
    )
    sections = [
        with_lead(HEADER, _lead(results)),
        "## The file computes what was simulated\n",
        *equality_table(results),
        "\n## Size\n",
        *size_table(results),
        "\n## Speed, one thread\n",
        "Median ± interquartile range of runs taken in turns with the float network's; the machine was shared.\n",
        *speed_table(results),
        f"\nCommits: {', '.join(commits)}. Machines: {'; '.join(machines)}.",
    ]
    page.write_text(folded("\n".join(sections)) + "\n", encoding="utf-8")
    return len(results)
