"""mrecg: post-training quantization of vision models at 2 to 8 bits, block by block, without oscillation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mrecg.collection import collection_paused
from mrecg.config.presets import preset
from mrecg.config.recipe import Recipe, read_recipe
from mrecg.errors import MrecgError
from mrecg.export.findings import Verification
from mrecg.records.bit_choice import BitChoice
from mrecg.records.plan import Plan
from mrecg.records.record import Record
from mrecg.records.sensitivity import Sensitivity

if TYPE_CHECKING:
    from mrecg.conversion.onnx_modules import from_onnx
    from mrecg.evaluation import Evaluation, evaluate
    from mrecg.export.onnx.files import export_onnx
    from mrecg.export.onnx.verification import verify_onnx
    from mrecg.export.pt2 import export_program
    from mrecg.metrics import Fidelity, fidelity
    from mrecg.mixed_precision.accuracy_target import quantize_to
    from mrecg.mixed_precision.integer_program import choose_bits
    from mrecg.mixed_precision.measurement import sensitivity
    from mrecg.monitoring import TensorBoard
    from mrecg.optimize.progress import Progress
    from mrecg.pipeline import PreparedModel, prepare
    from mrecg.planning.estimate import Estimate
    from mrecg.quantization import quantize, resume
    from mrecg.runs.folder import QuantizedModel, load
    from mrecg.runs.trainable import TrainableModel
    from mrecg.runs.trained import from_trained

__all__ = [
    "BitChoice",
    "Estimate",
    "Evaluation",
    "Fidelity",
    "MrecgError",
    "Plan",
    "PreparedModel",
    "Progress",
    "QuantizedModel",
    "Recipe",
    "Record",
    "Sensitivity",
    "TensorBoard",
    "TrainableModel",
    "Verification",
    "choose_bits",
    "evaluate",
    "export_onnx",
    "export_program",
    "fidelity",
    "from_onnx",
    "from_trained",
    "load",
    "prepare",
    "preset",
    "quantize",
    "quantize_to",
    "read_recipe",
    "resume",
    "sensitivity",
    "verify_onnx",
]

__version__ = "0.1.0"

_NEEDS_TORCH = {
    "choose_bits": "mrecg.mixed_precision.integer_program",
    "quantize_to": "mrecg.mixed_precision.accuracy_target",
    "sensitivity": "mrecg.mixed_precision.measurement",
    "Evaluation": "mrecg.evaluation",
    "evaluate": "mrecg.evaluation",
    "export_onnx": "mrecg.export.onnx.files",
    "export_program": "mrecg.export.pt2",
    "verify_onnx": "mrecg.export.onnx.verification",
    "TensorBoard": "mrecg.monitoring",
    "Fidelity": "mrecg.metrics",
    "fidelity": "mrecg.metrics",
    "from_onnx": "mrecg.conversion.onnx_modules",
    "Estimate": "mrecg.planning.estimate",
    "PreparedModel": "mrecg.pipeline",
    "Progress": "mrecg.optimize.progress",
    "prepare": "mrecg.pipeline",
    "quantize": "mrecg.quantization",
    "resume": "mrecg.quantization",
    "QuantizedModel": "mrecg.runs.folder",
    "load": "mrecg.runs.folder",
    "TrainableModel": "mrecg.runs.trainable",
    "from_trained": "mrecg.runs.trained",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used: `mrecg --help` should answer at once."""
    if name in _NEEDS_TORCH:
        with collection_paused():
            module = import_module(_NEEDS_TORCH[name])
        return getattr(module, name)
    raise AttributeError(f"module 'mrecg' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Return the public names, those that are not imported yet included."""
    return [*__all__, "__version__"]
