"""Requirements of exported files: optional packages, and codes that operators exist for."""

from importlib.util import find_spec

from mrecg.errors import ExportError, expect
from mrecg.runs.folder import QuantizedModel

__all__ = ["is_installed", "require", "require_uniform"]


def is_installed(package: str) -> bool:
    """Return whether `package` can be imported; it is not imported."""
    return find_spec(package) is not None


def require(*packages: str) -> None:
    """Refuse to go on without `packages`.

    Raises:
        ExportError: naming the first that is missing and how to get it.
    """
    for package in packages:
        if not is_installed(package):
            raise ExportError(
                f"Files for ONNX Runtime need the package {package}, which is not installed; "
                "install mrecg[onnx]."
            )


def require_uniform(quantized: QuantizedModel) -> None:
    """Refuse codes that neither ONNX nor PT2E has operators for.

    Raises:
        ExportError: the model's codes are logarithms, or it is no quantized model.
    """
    advice = "make one with mrecg.quantize or mrecg.load"
    expect(quantized, QuantizedModel, "What is exported", advice, ExportError)
    recipe = quantized.recipe
    if recipe.weight.logarithmic or recipe.activation.logarithmic:
        raise ExportError(
            f"A model for the backend '{recipe.placement.backend}' cannot be exported: its codes are logarithms, and "
            "the quantizers of ONNX and PT2E are uniform; the run folder holds its codes."
        )
