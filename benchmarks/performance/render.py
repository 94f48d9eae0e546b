"""The tables of `docs/performance.md`."""

import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.accuracy.results import accuracy_store, authors_results
from benchmarks.performance.default_run import default_runs_section
from benchmarks.performance.first_call import first_call_section
from benchmarks.performance.gpu import gpu_section
from benchmarks.performance.kept_memory import kept_memory_section
from benchmarks.performance.pipeline import pipeline_sections
from benchmarks.performance.results import performance_store
from benchmarks.performance.threads import threads_section
from benchmarks.performance.window_step import windows_section
from benchmarks.store import Result
from benchmarks.tables import by_key, folded, table, with_lead

__all__ = ["write_performance"]

HEADER = """# Performance

Written by `python -m benchmarks.performance render` from files in `benchmarks/results`, which `make bench` makes and whose
results name commit, versions and machine. Times are CPU seconds of one thread, medians of steps that take turns with the
float steps they are compared with, in one process: the machine was shared, so only ratios mean something.
"""
STEP = """## The step

A step of a group (batch, forward, penalty, backward, optimizer) ÷ forward, loss and backward of the same float unit in
torch's default layout; geometric mean over the units. Batches of 32, or 16 at 224². The float backward computes the
gradients of weights and input, but not of images.
"""
ABLATION = """## What makes the step fast

The same ratio with one thing taken away (`benchmarks.performance step --without`): feature maps and weights *channels last*; the
*native kernels*, so that torch's operators do their work; those and the *hand-written gradients* of fake quantization,
soft rounding and penalty; *fused clipping*, a quantizer that does the work of the ReLU before it; Adam on tensors that are
*gathered once*; the images' 8-bit scale *calibrated, not learned*; *float32*, without which convolutions are computed in
bfloat16 (`reconstruct.precision`). `tests/benchmarks/test_ablations.py` checks that all but the last two change
results by no more than what float noise grows to in ten steps; what bfloat16 does to accuracy is in `docs/results.md`.
"""
NETWORK_STEP = """## The step of the network as a whole

A step that learns codes and scales (batch, patches, the float network's answer, forward, backward, optimizer) ÷ a step of training
the float network (forward, cross entropy, backward, Adam, batch norms in training mode).
"""
PAIRED = """## Against an earlier version

The step of this version ÷ that of an earlier commit (`step --against`), in one process, step by step in turns, on the same
network and images; geometric mean over the units.
"""
ROUNDING = """## Rounding to nearest

At 8 bits (`w8a8-rtn`), from a float module and images to a quantized program, against torch's export to ONNX and ONNX Runtime's static
quantization with one range per output channel and extremes for activations: CPU seconds of one thread, in turns, in one process.
"""
AUTHORS = """## Against the authors' code

Their whole runs of 500 steps on networks of the same shape, in seconds of the processor of our run: times the float step here ÷ the
float step there, the geometric mean over the units whose float step was measured there. Ours is one thread, the network
as a whole included. *Float steps* are the 500 forward and backward passes of every unit in float and nothing else, there: no
run of as many steps is further ahead unless its steps are shorter than those. *Their default* is 20,000 steps, extrapolated.
The top-1 in the last columns is that of the reference checkpoints at 2/4 (`docs/results.md`), ours after these steps, theirs after 500.
"""
SCALING = """## Growth

Images that a unit runs forward, counted: seven eighths of all images three times, a fourth time where the optimization was rolled
back, and here 4 steps of 16; for the network as a whole the seven eighths once, the last eighth four times, and here 4 steps of 16
in both networks. It does not grow with the number of units, so that the whole run grows with it linearly.
"""
MEMORY = """## Memory

Resident memory of the process at its peak. The budget is for values of calibration images; files are read, not mapped,
so they do not count. The rest is torch, the images themselves and the step. The network as a whole takes its steps in parts of as
many images as save 2 GiB for the backward pass.
"""
RANGE_MEMORY = """
The search for the ranges of a weight, for all channels and candidates at once, holds at most so much beside the weight:
"""


def _steps(results: list[Result]) -> list[str]:
    rows = []
    for found in (result for result in results if not result["without"]):
        ratios = [unit["quantized_ms"] / unit["float_ms"] for unit in found["units"]]
        total = sum(u["quantized_ms"] for u in found["units"]) / sum(
            u["float_ms"] for u in found["units"]
        )
        name = f"{found['network']}, {found['side']}²"
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        figures = [f"{found['ratio']:.2f}", spread, f"{total:.2f}"]
        rows.append([name, found["method"], *figures, _processor(found)])
    for method, ratio in _mean_ratios(results).items():
        rows.append(["all", method, f"**{ratio:.2f}**", "", "", _most_measured(results)])
    return table("network | method | ratio | units from … to | sum of the units | processor", rows)


def _processor(found: Result) -> str:
    """Return what a result was measured on; older ones do not say."""
    return str(found.get("processor") or found.get("environment", {}).get("processor", ""))


def _most_measured(steps: list[Result]) -> str:
    """Return the processor with the most results: those of two do not make a mean."""
    return Counter(map(_processor, steps)).most_common(1)[0][0] if steps else ""


def _mean_ratios(steps: list[Result]) -> dict[str, float]:
    """Return the geometric mean of each method over the networks, on the processor with the most results."""
    place = _most_measured(steps)
    whole = [one for one in steps if not one["without"] and _processor(one) == place]
    return {
        method: statistics.geometric_mean(one["ratio"] for one in found)
        for (method,), found in by_key(whole, "method").items()
    }


def _ablations(results: list[Result]) -> list[str]:
    def key_of(found: Result) -> tuple[Any, ...]:
        return found["network"], found["side"], found["method"], _processor(found)

    full = {key_of(one): one["ratio"] for one in results if not one["without"]}
    rows = [
        [r["network"], r["method"], r["without"], f"{r['ratio']:.2f}", f"{full[key]:.2f}"]
        for r in results
        if r["without"] and (key := key_of(r)) in full
    ]
    return table("network | method | taken away | ratio without | with", rows)


def _rounding(results: list[Result]) -> list[str]:
    rows = [
        [
            f"{found['network']}, {found['side']}², {found['images']} images",
            f"{found['seconds']:.1f}",
            f"{found['theirs']['export']:.1f} + {found['theirs']['quantize_static']:.1f}",
            f"**{found['ratio']:.2f}**",
        ]
        for found in results
    ]
    return table("network | ours | torch's export + ONNX Runtime's calibration | ratio", rows)


def _authors(
    pipelines: list[Result], steps: list[Result], accuracy: list[Result], authors: Result
) -> list[str]:
    floats = {
        (_processor(found), found["network"], found["method"], unit["unit"]): unit["float_ms"]
        for found in steps
        if not found["without"]
        for unit in found["units"]
    }
    measured = {key[:3] for key in floats}
    rows = []
    for found in pipelines:
        network, method, processor = found["network"], found["method"], _processor(found)
        theirs = authors["times"].get(network, {"seconds": {}})
        # Theirs are at 2/4.
        if (
            found["bits"] != "w2a4"
            or method not in theirs["seconds"]
            or (processor, network, method) not in measured
        ):
            continue
        slower = statistics.geometric_mean(
            floats[processor, network, method, unit] / there
            for unit, there in theirs["float_ms"].items()
        )
        times = _times_against_the_authors(found, theirs, slower)
        top1 = _top1_against_the_authors(found, theirs["checkpoint"], accuracy, authors)
        rows.append([network, method, found["steps"], f"{slower:.2f}", *times, *top1])
    seconds = "float step, here ÷ there | theirs, scaled | ours"
    ratio = "theirs ÷ ours | theirs ÷ float steps | their default ÷ ours | top-1, ours | theirs"
    return table(f"network | method | our steps | {seconds} | {ratio}", rows)


def _times_against_the_authors(found: Result, theirs: Result, slower: float) -> list[str]:
    """Return their scaled seconds, ours, and the ratios; `slower` is a float step here ÷ one there."""
    method = found["method"]
    ours = sum(value for phase, value in found["seconds"].items() if phase != "evaluation")
    scaled = slower * sum(theirs["seconds"][method])
    *_, reconstruction = theirs["seconds"][method]
    float_steps = reconstruction / theirs["step_over_float_step"][method]
    bound = sum(theirs["seconds"][method]) / float_steps
    default = slower * 60 * theirs["minutes_of_20000_steps"][method]
    ratios = [f"**{scaled / ours:.1f}**", f"{bound:.1f}", f"**{default / ours:.0f}**"]
    return [f"{scaled:.0f}", f"{ours:.0f}", *ratios]


def _top1_against_the_authors(
    found: Result, checkpoint: str, accuracy: list[Result], authors: Result
) -> list[object]:
    """Return our top-1 at the same steps, where it was measured, and theirs."""
    wanted = (checkpoint, "w2a4", found["method"], found["steps"], None)
    fields = ("network", "bits", "method", "steps", "without")
    reached = [cell["top1"] for cell in accuracy if tuple(cell[f] for f in fields) == wanted]
    ours = f"{statistics.mean(reached):.2f}" if reached else ""
    return [ours, authors["500"][checkpoint]["w2a4"][found["method"]]]


def _paired(results: list[Result]) -> list[str]:
    rows = [
        [r["network"], f"{r['side']}²", r["method"], r["against"], r["commit"], f"{r['ratio']:.3f}"]
        for r in results
    ]
    for (against,), same in by_key(results, "against").items():
        ratio = statistics.geometric_mean(r["ratio"] for r in same)
        rows.append(["all", "", "", against, "", f"**{ratio:.3f}**"])
    return table("network | side | method | against | commit | ratio", rows)


def _scaling(results: list[Result]) -> list[str]:
    rows = [[r["units"], r["images"], f"{r['image_forwards'] / r['units']:.0f}"] for r in results]
    return table("units | images | images run forward, per unit", rows)


def _memory(results: list[Result]) -> list[str]:
    rows = [
        [
            f"{r['network']}, {r['side']}², {r['images']} images, {r['steps']:,} steps of {r['batch']}",
            r["budget"],
            f"{r['peak_gib']:.2f} GiB",
            f"{r['network_gib']:.2f} GiB" if "network_gib" in r else "",
            f"{r['before_gib']:.2f} GiB",
            f"{r['estimate_memory_gib']:.2f} GiB, {r['estimate_files_gib']:.2f} GiB",
        ]
        for r in results
    ]
    columns = "run | budget | peak | in steps of the network as a whole | before the run | estimate: memory, files"
    return table(columns, rows)


def _range_memory(results: list[Result]) -> list[str]:
    rows = [
        (
            f"Linear({one['inputs']}, {one['outputs']})",
            f"{one['weight_mib']:.1f} MiB",
            f"{one['peak_mib']:.1f} MiB",
        )
        for one in results
    ]
    return table("layer | weight | search, at most", rows)


def _network_steps(results: list[Result]) -> list[str]:
    rows = [
        (f"{result['network']}, {result['side']}²", result["batch"], f"{result['ratio']:.2f}")
        for result in sorted(results, key=lambda result: result["network"])
    ]
    return table("network | batch | ÷ float training step", rows)


def _lead(steps: list[Result]) -> str:
    """Return the page in a sentence: what a step costs."""
    parts = [f"{ratio:.2f} times ({method})" for method, ratio in _mean_ratios(steps).items()]
    return f"A step of a group costs {' and '.join(parts)} what forward and backward of the float unit cost."


def write_performance(folder: Path, page: Path) -> int:
    """Write the page from the results in a folder, and return how many results it shows."""
    kinds = (
        "step",
        "network_step",
        "window_step",
        "paired",
        "pipeline",
        "default_run",
        "kept_memory",
        "rounding",
        "first_call",
        "threads",
        "gpu",
        "scaling",
        "memory",
        "range_memory",
    )
    found = {kind: performance_store(kind, folder).read() for kind in kinds}
    authors = authors_results()
    accuracy = [
        one
        for one in accuracy_store(folder).read()
        if one.get("schedule") is None and one.get("code_steps") is None
    ]
    everything = [result for results in found.values() for result in results]
    commits = sorted({result["commit"] for result in everything})
    paired = [PAIRED, *_paired(found["paired"]), ""] if found["paired"] else []
    rounding = [ROUNDING, *_rounding(found["rounding"]), ""] if found["rounding"] else []
    sections = [
        *(
            with_lead(HEADER, _lead(found["step"])),
            STEP,
            *_steps(found["step"]),
            "",
            ABLATION,
            *_ablations(found["step"]),
            "",
        ),
        *(
            [NETWORK_STEP, *_network_steps(found["network_step"]), ""]
            if found["network_step"]
            else []
        ),
        *windows_section(folder),
        *paired,
        *(*pipeline_sections(found["pipeline"]), ""),
        *default_runs_section(found["default_run"]),
        *kept_memory_section(found["kept_memory"]),
        *rounding,
        *first_call_section(found["first_call"]),
        *threads_section(found["threads"]),
        AUTHORS,
        *_authors(found["pipeline"], found["step"], accuracy, authors),
        *("", f"Authors' code: {authors['times']['source']}\n"),
        *(*gpu_section(found["gpu"]), "", SCALING, *_scaling(found["scaling"]), ""),
        *(MEMORY, *_memory(found["memory"]), RANGE_MEMORY, *_range_memory(found["range_memory"])),
        *("", f"Commits: {', '.join(commits)}."),
    ]
    page.write_text(folded("\n".join(sections)) + "\n", encoding="utf-8")
    return len(everything)
