"""The peers: what each is installed from, apart from mrecg, and the program that runs it.

No peer is a dependency of mrecg. Those on torch get the version that mrecg is tested with first, from a CPU build where pip finds
one, and themselves without their dependencies, so that none brings another torch.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PEERS", "Peer"]

TORCH = "torch==2.13.0"
_ONNX = ("onnx==1.23.2", "onnxruntime==1.32.0", "numpy")
PROGRAMS = Path(__file__).parent / "programs"


@dataclass(frozen=True)
class Peer:
    """Another tool.

    Attributes:
        name: of the tool and of its method, as in the table.
        bits: of weights and activations that it is run at.
        package: that holds it, with its version; installed without its dependencies.
        needs: what it needs besides, installed with theirs.
        program: its file in `programs`, which is given a folder of inputs, writes `answers.npy` there and prints the seconds; `None`
            where there is none yet.
    """

    name: str
    bits: str
    package: str
    needs: Sequence[str]
    program: str | None

    @property
    def name_of_package(self) -> str:
        """Return it without the version; it names the virtual environment, too."""
        return self.package.partition("==")[0]

    def installed(self, folder: Path) -> Path:
        """Return the Python of the peer's virtual environment, which is made if it is not there."""
        place = folder / self.name_of_package
        python = place / "bin" / "python"
        if not (place / "ready").exists():
            _run([sys.executable, "-m", "venv", str(place)])
            pip = [str(python), "-m", "pip", "install", "--quiet"]
            _run([*pip, *self.needs])
            _run([*pip, "--no-deps", self.package])
            (place / "ready").touch()
        return python

    def versions(self, python: Path) -> list[str]:
        """Return what is installed in the peer's environment."""
        return _run([str(python), "-m", "pip", "list", "--format", "freeze"]).split()

    def run(self, python: Path, inputs: Path) -> tuple[list[str], float]:
        """Run the peer on a folder of inputs; return the command and the CPU seconds that its quantization took."""
        assert self.program is not None
        command = [str(python), str(PROGRAMS / self.program), str(inputs), self.bits]
        *_, last = _run(command).splitlines()
        return [python.name, self.program, self.bits], float(json.loads(last)["seconds"])


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


_NNCF_NEEDS = (
    *_ONNX,
    *("networkx", "ninja", "openvino-telemetry", "packaging", "psutil", "pydot", "rich"),
    *("safetensors", "scikit-learn", "scipy", "tabulate"),
)
PEERS = (
    Peer("ONNX Runtime, static", "w8a8", "onnxruntime==1.32.0", _ONNX, "onnxruntime_static.py"),
    Peer("NNCF, defaults", "w8a8", "nncf==3.4.0", _NNCF_NEEDS, "nncf_ptq.py"),
    Peer("Brevitas, GPTQ", "w4a4", "brevitas", (TORCH,), None),
    Peer("Brevitas, Qronos", "w4a4", "brevitas", (TORCH,), None),
    Peer("AIMET, AdaRound, 15,000 iterations", "w4a4", "aimet-torch", (TORCH,), None),
    Peer("MCT, GPTQ at its defaults", "w4a4", "model-compression-toolkit", (TORCH,), None),
)
