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

TORCH, TORCHVISION = "torch==2.13.0", "torchvision==0.28.0"
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
        program: its file in `programs`, which is given a folder of inputs, the widths and the options, writes `answers.npy` there and
            prints the seconds.
        options: of the program.
    """

    name: str
    bits: str
    package: str
    needs: Sequence[str]
    program: str
    options: Sequence[str] = ()

    @property
    def name_of_package(self) -> str:
        """Return it without the version; it names the virtual environment, too."""
        return self.package.partition("==")[0]

    @property
    def version(self) -> str:
        """Return the package's version."""
        return self.package.partition("==")[2]

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
        asked = [self.bits, *self.options]
        *_, last = _run(
            [str(python), str(PROGRAMS / self.program), str(inputs), *asked]
        ).splitlines()
        return [python.name, self.program, *asked], float(json.loads(last)["seconds"])


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
_BREVITAS_NEEDS = (
    *(TORCH, "numpy", "dependencies==2.0.1", "packaging", "setuptools<81", "sympy"),
    *("unfoldNd", "safetensors", "tqdm", "pyyaml"),
)
_AIMET_NEEDS = (
    *(TORCH, TORCHVISION, "Jinja2", "PyYAML", "bokeh<=3.6.3", "cvxpy", "holoviews", "hvplot"),
    *("jsonschema", "matplotlib", "networkx", "numpy", "onnx==1.23.2", "onnx_ir", "onnxscript"),
    *("osqp", "pandas", "psutil", "pybind11", "safetensors", "scikit-learn", "scipy"),
    *("tensorboard", "tqdm"),
)
_MCT_NEEDS = (
    *(TORCH, TORCHVISION, "networkx<3.6", "tqdm", "Pillow", "numpy", "scikit-image"),
    *("scikit-learn", "tensorboard", "PuLP", "matplotlib<3.10.0", "scipy", "protobuf"),
    *("mct-quantizers~=1.7.0", "pydantic<2.12.0,>=2.0", "edge-mdt-cl~=1.1.0"),
)


def _brevitas(name: str, bits: str, method: str) -> Peer:
    return Peer(name, bits, "brevitas==0.13.4", _BREVITAS_NEEDS, "brevitas_ptq.py", (method,))


def _aimet(name: str, bits: str, *iterations: str) -> Peer:
    package = "aimet-torch==2.42.0"
    return Peer(name, bits, package, _AIMET_NEEDS, "aimet_adaround.py", iterations)


def _mct(name: str, bits: str, epochs: str) -> Peer:
    package = "model-compression-toolkit==2.6.1"
    return Peer(name, bits, package, _MCT_NEEDS, "mct_gptq.py", (epochs,))


PEERS = (
    Peer("ONNX Runtime, static", "w8a8", "onnxruntime==1.32.0", _ONNX, "onnxruntime_static.py"),
    Peer("NNCF, defaults", "w8a8", "nncf==3.4.0", _NNCF_NEEDS, "nncf_ptq.py"),
    _brevitas("Brevitas, GPTQ", "w4a4", "gptq"),
    _brevitas("Brevitas, GPTQ", "w2a4", "gptq"),
    _brevitas("Brevitas, Qronos", "w4a4", "qronos"),
    _brevitas("Brevitas, Qronos", "w2a4", "qronos"),
    _aimet("AIMET, AdaRound, 500 iterations", "w4a4", "500"),
    _aimet("AIMET, AdaRound, 500 iterations", "w4a8", "500"),
    _aimet("AIMET, AdaRound, 15,000 iterations", "w4a4"),
    _mct("MCT, GPTQ, 5 epochs", "w4a4", "5"),
)
"""The rows of `docs/peers.md`."""
