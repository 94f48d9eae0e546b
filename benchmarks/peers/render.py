"""The table of `docs/peers.md`."""

from pathlib import Path

from benchmarks.store import Result, Store
from benchmarks.tables import folded, table, with_lead

__all__ = ["peers_store", "write_peers"]

HEADER = """# Accuracy against seconds

Written by `python -m benchmarks.peers render` from `benchmarks/results/peers.jsonl`, whose results name versions and commands. The
networks are small ones on Fashion-MNIST, with 256 calibration images for everyone; top-1 is on all 10,000 test images, once, with a
standard error of 0.3. Seconds are CPU seconds of one thread, of quantization alone: of an ONNX file for ONNX Runtime and NNCF
(torch's export to it not counted), of the module for mrecg (its own export included). ONNX Runtime and NNCF have no 4-bit or 2-bit
convolutions. Brevitas, AIMET and MCT have no program here yet; *not measured* marks what was left out.
"""


def peers_store(folder: Path) -> Store:
    """Return the results of all tools."""
    return Store("peers", ("network", "bits", "tool"), folder)


def write_peers(results: Path, path: Path) -> int:
    """Write the page; return how many results it shows."""
    found = peers_store(results).read()
    columns = "network | W/A | tool | top-1 | CPU seconds | version"
    lines = [with_lead(HEADER, _lead(found)), *table(columns, map(_row, found)), ""]
    path.write_text(folded("\n".join(lines)), encoding="utf-8")
    return len(found)


def _lead(found: list[Result]) -> str:
    """Return what is measured at 8 bits; differences below the standard error make no tool the best."""
    parts = [
        f"{one['tool']} {one['top1']:.2f} % in {one['seconds']:.1f} s on {one['network']}"
        for one in found
        if one["bits"] == "w8a8" and one["seconds"]
    ]
    return f"At 8 bits: {'; '.join(parts)}." if parts else "Nothing is measured yet."


def _row(found: Result) -> list[str]:
    top1, seconds = found["top1"], found["seconds"]
    return [
        found["network"],
        found["bits"][1:].replace("a", "/") or "float",
        "" if found["tool"] == "float" else found["tool"],
        "not measured" if top1 is None else f"{top1:.2f}",
        "" if seconds is None else f"{seconds:.1f}",
        found.get("version", ""),
    ]
