"""The table of `docs/peers.md`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.peers.environments import PEERS, Peer
from benchmarks.store import Result, Store
from benchmarks.tables import folded, table, with_lead

__all__ = ["lead", "peers_store", "rows", "write_peers"]

STANDARD_ERROR = 0.3
"""Of the top-1 of 10,000 images, in percent."""

HEADER = """# Accuracy against seconds

Written by `python -m benchmarks.peers render` from `benchmarks/results/peers.jsonl`, whose results name versions and commands. The
networks are small ones on Fashion-MNIST, with 256 calibration images for everyone; top-1 is on all 10,000 test images, once, with a
standard error of 0.3. Seconds are CPU seconds of one thread, of quantization alone: of an ONNX file for ONNX Runtime and NNCF
(torch's export to it not counted), of the module for all others (mrecg's own export included). ONNX Runtime and NNCF have no 4-bit or
2-bit convolutions. *Not measured* marks what has a program and was left out because of the time it takes. Rows that name no
processor are older: seconds of two processors do not compare.

The first and the last layer have 8 bits everywhere, and weights a range for each channel. Where activations are quantized, and how
their ranges are found, is each tool's own:

- **Brevitas** follows its ImageNet example: equalization, ranges of least squared error, GPTQ or Qronos with columns in the order of
  their importance, correction of biases. It quantizes what layers read.
- **AIMET** follows its documentation: batch normalization folded, AdaRound with `tf-enhanced` ranges, then ranges of activations. It
  quantizes results of layers and additions, so shortcuts have few bits, too. Its default is 15,000 iterations for each layer, thirty
  times as many as in the row with 500.
- **MCT** has its defaults but for widths and epochs, which have no default; five is the number in its documentation. Ranges of
  activations are powers of two. Most of its time goes into second derivatives, which weight its loss, and not into epochs.
"""


def peers_store(folder: Path) -> Store:
    """Return the results of all tools."""
    return Store("peers", ("network", "bits", "tool"), folder)


def write_peers(results: Path, path: Path) -> int:
    """Write the page; return how many results it shows."""
    found = peers_store(results).read()
    columns = "network | W/A | tool | top-1 | CPU seconds | version | processor"
    lines = [with_lead(HEADER, lead(found)), *table(columns, rows(found, PEERS)), ""]
    path.write_text(folded("\n".join(lines)), encoding="utf-8")
    return len(found)


def lead(found: Sequence[Result]) -> str:
    """Return the fastest of those within a standard error of the best, at each width where two tools or more are measured."""
    measured = [one for one in found if one["seconds"] is not None]
    parts = []
    for network, bits in sorted({(one["network"], one["bits"]) for one in measured}):
        cell = [one for one in measured if (one["network"], one["bits"]) == (network, bits)]
        if len({one["tool"].partition(",")[0] for one in cell}) < 2:
            continue
        best = max(one["top1"] for one in cell)
        near = (one for one in cell if one["top1"] >= best - STANDARD_ERROR)
        fastest = min(near, key=lambda one: one["seconds"])
        figures = f"{fastest['top1']:.2f} % in {fastest['seconds']:.1f} s"
        parts.append(f"{network} {_widths(bits)} {fastest['tool']} ({figures})")
    if not parts:
        return "Nothing is compared yet."
    return f"Fastest of those within {STANDARD_ERROR} points of the best: {'; '.join(parts)}."


def rows(found: Sequence[Result], peers: Iterable[Peer]) -> list[list[str]]:
    """Return the rows of the table: what is measured, and which peers are not, of the networks that anything is measured on."""
    shown = {(one["network"], one["bits"], one["tool"]): _row(one) for one in found}
    for network in {one["network"] for one in found}:
        for peer in peers:
            cells = [network, _widths(peer.bits), peer.name, "not measured", "", peer.version, ""]
            shown.setdefault((network, peer.bits, peer.name), cells)
    return [shown[key] for key in sorted(shown)]


def _row(found: Result) -> list[str]:
    seconds = found["seconds"]
    return [
        found["network"],
        _widths(found["bits"]) or "float",
        "" if found["tool"] == "float" else found["tool"],
        f"{found['top1']:.2f}",
        "" if seconds is None else f"{seconds:.1f}",
        found.get("version", ""),
        found.get("processor", ""),
    ]


def _widths(bits: str) -> str:
    return bits[1:].replace("a", "/")
