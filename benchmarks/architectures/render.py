"""The table of `docs/limits.md`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.architectures.families import networks
from benchmarks.store import Result, Store
from benchmarks.tables import folded, table, with_lead

__all__ = ["architectures_store", "coverage_table", "write_limits"]

STAGES = ("captured", "reconstructed", "loaded", "exported", "verified")
HEADER = """# What is covered, and what is not

Written by `python -m benchmarks.architectures render` from `benchmarks/results/architectures.jsonl`, made by
`python -m benchmarks.architectures measure`. Each model has random weights, none of them zero throughout, batch norms that fit the images, and goes the whole way: captured, cut into units,
reconstructed (two steps of QDrop for each unit, W4A8, the placement for ONNX Runtime), exported in the layout `int8`, run in
ONNX Runtime and compared with the simulation: given the same codes, none may be further than 0.51 scales from the simulated
number, and no output further than 0.01 times its resolution (or the last digits of a float, where those are coarser). Each has a process of its own, so that a crash or the time limit is
found out about this model and the others go on.

Networks called `zoo:` are in `benchmarks/architectures/zoo.py`: the network parts of torchvision's detectors, segmenters of torchvision
and segmentation-models-pytorch, MTCNN's three, small ones of our own, and some of these as they come back from an ONNX file.

- *loaded*: saved and loaded, with equal bits in every output; results from before this was tried have no mark.
- *float*: convolutions and linear layers whose weight cannot be quantized.
- *difference*: the largest of an output, ties apart, in units of its resolution. *ties*: numbers that are between two codes to the
  last digit and that the file rounds to the other side. [export.md](export.md) explains both.
- *in integers*: of the layers and products in the file, attention's among them, those that ONNX Runtime computes in integers.
"""
LIMITS = """
## What cannot be done, and why

- **What `torch.export` cannot trace is refused**, with the module and the line at fault: control flow that depends on
  pixels, or on the batch. Models that demand a certain size of image (`halonet26t` and `bat_resnext26ts` of timm ask
  that each feature map divide into windows) assert it while they are traced: give images of a size that does.
- **The image size is fixed when a model is captured**, the batch is not: position embeddings, windows and masks are made
  for one size, and the quantizers' ranges hold for it, too. A file can take any size (`export_onnx(dynamic_size=True)`) where the
  network is convolutions and the like throughout.
- **Several inputs** are given as dictionaries by the names of the forward's arguments, with the batch on axis 0 of each. Floats get
  quantizers where layers read them, integers (tokens, indices) none, and an embedding's table stays in float. Views of the images (`network.augment`) are used where
  all inputs are images of one size. The command line reads images for one input only, and `dynamic_size` is for one.
- **Outputs may be nested** in tuples, named tuples, lists and dictionaries, next to numbers, strings and `None`. A dataclass
  becomes a named tuple, another mapping a dictionary; a saved run returns named tuples of a class of its own, a `.pt2` file
  plain ones. `verify` and `mrecg.fidelity` report each tensor by name. Where axes are reordered behind the last layer, no axis
  of classes is known, and no agreement of classes is given.
- **What runs under `no_grad`, `autocast` or a checkpoint inside of the forward** is quantized like the rest; autocast is left
  out, because what is simulated is a float32 network. Refused are `torch.cond` and other operators with graphs of their own,
  scripted parts, and random numbers that evaluation does not switch off.
- **Numbers that the forward reads off its own tensors** (sizes in a buffer, a flag) are constants, as long as no image reaches
  those tensors.
- **Norms that use the statistics of the batch** stay in float and are not folded; what they give for an image depends on the
  images next to it.
- **What is written into a tensor becomes a new tensor**; parts that slices and indices select are put back into a copy of
  the whole. Refused, with the operator and the module, is a change whose old views are read afterwards, and one through any
  other kind of view. Masks that depend on no image become constants.
- **A weight that is computed from parameters** (weight standardization, weight and spectral norm) is computed once and quantized
  like any other. **A weight that depends on the image** (dynamic convolution), a parameter that several computations
  share, a weight that a convolution and a transposed one share, three-dimensional convolutions, recurrent layers and products with a parameter outside of layers stay in float; the
  record lists them as `left_in_float`.
- **Products of two tensors that depend on the image**, as in attention, stay in float, as do softmax, normalization over
  channels, GELU, SiLU and other functions without corners; layers before them have no quantizer at once behind and
  stay in float in ONNX Runtime under the papers' placement. Under the one for ONNX Runtime, convolutions before them have.
- **The last layers return floats**, and what is computed of their results, such as boxes, stays in float: in ONNX Runtime these
  convolutions run in float, too, under every placement but those that quantize results.
- **One-dimensional transposed convolutions** stay in float. ONNX Runtime would round the weights of any float layer between
  quantizers by itself, so a file has a sum of one operand in front of such layers.
- **A branch without quantizers in it is no unit.** Models without repeated modules, or whose blocks are long, give long
  units: the largest dense block of DenseNet-121 is one unit of 42 layers or so, which needs the memory of all its values.
- **Values with several rows for an image** (all windows of all images as one batch), or with the batch on another axis than the
  first, are not cut, because nothing can be drawn in batches there: the blocks of MobileViT that work on them are reconstructed
  together. Where the last layer makes such a value (steps of time first, as for CTC; a row for each position), it is compared
  with the images brought to the front. Refused, with the layer, is a last layer whose result does not tell images apart.
- **A model that combines images of a batch**, takes some of them, or is written for a certain number is refused.
- **Operators without a counterpart in ONNX** are refused when the file is written; the message names the operator.
  Attention with other than four axes must not be causal, grouped or masked by booleans.
- **Codes of 16 bits** are written as ONNX's 16-bit integers and weights beside floats as codes; ONNX Runtime computes such layers
  in float. Codes that no integer of 16 bits holds, as a quantizer of your own may ask for, are not exported.
- **Models for the backend `nnie` are not exported**: their codes are logarithms, and quantizers of ONNX and PT2E are uniform.
"""


def coverage_table(results: list[Result]) -> list[str]:
    rows = []
    for result in results:
        captured, *passed = [_mark(result, stage) for stage in STAGES]
        row = [result["family"], result["network"], _size(result["shape"]), captured]
        row += [result["units"], result["layers"], len(result["left_in_float"]), *passed]
        if verified := result["verification"]:
            integer, rest = len(verified["integer_layers"]), len(verified["float_layers"])
            row += [f"{verified['largest_difference']:.2g}"]
            row += [f"{verified['different_codes']} of {verified['codes']:.1e}"]
            row += [f"{integer} of {integer + rest}"]
        else:
            row += ["", "", ""]
        rows.append(row)
    checked = "captured | units | layers | float | reconstructed | loaded | exported | verified"
    found = "difference | ties | in integers"
    return table(f"family | network | size | {checked} | {found}", rows)


def _size(shape: Sequence[int]) -> str:
    """Return an image's side, or its whole shape where it is no square of three channels."""
    square = len(shape) == 4 and shape[1] == 3 and shape[2] == shape[3]
    return str(shape[-1]) if square else "×".join(map(str, shape[1:]))


def _mark(result: Result, stage: str) -> str:
    """Return whether a stage was passed; nothing for a result from before there was that stage."""
    return {True: "✓", False: "✗", None: ""}[result.get(stage)]


def _families(results: list[Result]) -> list[str]:
    """Return how many networks of each family are verified."""
    rows = []
    for name in sorted({result["family"] for result in results}):
        found = [result["verified"] for result in results if result["family"] == name]
        rows.append((name, len(found), sum(found)))
    return table("family | networks | verified", rows)


def summary(results: list[Result]) -> str:
    def share(stage: str) -> str:
        tried = [result[stage] for result in results if stage in result]
        return f"{sum(tried)} of {len(tried)} ({100 * sum(tried) / max(len(tried), 1):.1f} %)"

    return "; ".join(f"{stage} {share(stage)}" for stage in STAGES).capitalize() + "."


def problems(results: list[Result]) -> list[str]:
    failed = [f"- `{r['network']}`: {r['problem']}" for r in results if r["problem"]]
    return ["\n## What failed\n", *failed] if failed else []


def not_run(results: list[Result]) -> list[str]:
    listed = {name.partition("@")[0] for name in networks()}
    missing = sorted(listed - {result["network"] for result in results})
    return [f"\nOf the benchmark's list without a result: {', '.join(missing)}."] if missing else []


def architectures_store(folder: Path) -> Store:
    """Return the results of this benchmark."""
    return Store("architectures", ("network",), folder)


def write_limits(folder: Path, page: Path) -> int:
    """Write the page from the results in a folder, and return how many results it shows."""
    results = architectures_store(folder).read()
    if not results:
        raise SystemExit(f"There are no results in {folder}; run the benchmark first.")
    results.sort(key=lambda result: (result["family"], result["network"]))
    commits = Counter(result["commit"] for result in results)
    versions = sorted(
        {", ".join(f"{k} {v}" for k, v in result["environment"].items()) for result in results}
    )
    sections = [
        with_lead(HEADER, summary(results)),
        *_families(results),
        "",
        *coverage_table(results),
        *problems(results),
        *not_run(results),
        LIMITS,
        f"Commits: {', '.join(f'{one} ({count})' for one, count in sorted(commits.items()))}. Versions: {'; '.join(versions)}.",
    ]
    page.write_text(folded("\n".join(sections)) + "\n", encoding="utf-8")
    return len(results)
