"""Fingerprints of runs with a fixed seed: what a change of the code that should change no result must reproduce.

    python benchmarks/golden.py                                  # compare with tests/golden.json
    PYTHONPATH=OTHER/src python benchmarks/golden.py --write     # write it, with another version of mrecg

Codes, scales, losses and logits are compared bit for bit. Bits depend on the processor and on torch's build, so the file
names both, and on another machine it says nothing.
"""

import argparse
import hashlib
import importlib
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mrecg
from mrecg.data import calibration_images, evaluation_batches

HERE = Path(__file__).parent
FILE = HERE.parent / "tests" / "golden.json"
IMAGES = 64
SETTINGS = {"reconstruct.steps": 24, "reconstruct.batch_size": 16}
CASES: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "mrecg": ("w2a2-qdrop-mrecg", None, {}),
    "brecq": ("w2a4-brecq", None, {}),
    "logarithms": ("w8a8-brecq", "nnie", {}),
    "powers of two": ("w8a8-qdrop", "vitis", {}),
    "absolute rates": (
        "w4a8-qdrop-mrecg",
        None,
        {
            "reconstruct.steps": 100,
            "placement.first_last": "brecq",
            "reconstruct.activation_rate_unit": "absolute",
            "placement.tensors": "all",
        },
    ),
}
RUNS = (
    *((network, case) for network in ("mobilenetv2_small", "regnetx_small", "resnet18_small") for case in ("mrecg", "brecq")),
    *(("resnet18_small", case) for case in ("logarithms", "powers of two", "absolute rates")),
)  # fmt: skip
"""Networks with cases: three networks by two methods, and what those leave out."""


def machine() -> str:
    """Return what decides the last bits of a result, as a short text."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else [platform.processor()]
    kept = sorted(
        {line for line in lines if line.startswith(("model name", "cpu family", "flags"))}
    )
    digest = hashlib.sha256("\n".join(kept).encode()).hexdigest()[:12]
    return f"{platform.machine()} {digest}, torch {torch.__version__}"


def fingerprint(network: str, case: str) -> dict[str, Any]:
    """Quantize and return digests of every tensor of the program, the losses, the steps and the logits."""
    preset, backend, settings = CASES[case]
    recipe = mrecg.preset(preset, SETTINGS)
    recipe = recipe.override(settings) if backend is None else recipe.for_backend(backend)
    model = _networks().build(network)
    _networks().load_weights(model, HERE / "checkpoints" / f"{network}.safetensors")
    images = calibration_images("demo", IMAGES, 1005)
    quantized = mrecg.quantize(model, images, recipe=recipe)
    shown, _ = next(iter(evaluation_batches("demo")))
    with torch.no_grad():
        logits = quantized.model(shown[:IMAGES])
    units = quantized.record.units
    losses = [unit.loss for unit in units] + [unit.relative_loss for unit in units]
    state = quantized.program.state_dict
    return {
        "tensors": {name: _digest(tensor) for name, tensor in sorted(state.items())},
        "losses": hashlib.sha256(json.dumps(losses).encode()).hexdigest()[:16],
        "steps": [group.steps for group in quantized.record.groups],
        "logits": _digest(logits),
    }


def _networks() -> Any:
    """Return the module that builds networks; it had another name in versions to compare with."""
    name = "mrecg.paper.networks"
    source = Path(mrecg.__file__).parent
    return importlib.import_module(name if (source / "paper").is_dir() else "mrecg.zoo")


def _digest(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"write {FILE.name}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {f"{network}/{case}": fingerprint(network, case) for network, case in RUNS}
    if arguments.write:
        folder = Path(mrecg.__file__).parent
        command = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        content = {"commit": commit, "machine": machine(), "runs": found}
        FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return
    golden = json.loads(FILE.read_text(encoding="utf-8"))
    differing = [name for name, one in golden["runs"].items() if found[name] != one]
    print(f"{len(found) - len(differing)} of {len(found)} runs are equal to {golden['commit']}'s")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
