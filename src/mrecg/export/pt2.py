"""PyTorch's own format: a `torch.export` program with PT2E's explicit quantize and dequantize operators."""

from pathlib import Path

import torch

from mrecg.errors import ExportError
from mrecg.export.programs import with_plain_containers
from mrecg.export.requirements import require_uniform
from mrecg.runs.folder import QuantizedModel

__all__ = ["export_program"]


def export_program(quantized: QuantizedModel, path: str | Path) -> Path:
    """Write a quantized model as `torch.export.save` does; it computes the simulation bit for bit.

    `torch.export.load(path).module()` reads it without mrecg, after `import torchao.quantization.pt2e` has registered
    the operators. It holds what `convert_pt2e` makes, so Inductor and other PT2E backends take it from there. Named tuples
    become tuples, because a class of the model's is not known where the file is read.

    Raises:
        ExportError: the codes are logarithms, torch cannot read what it wrote (nothing is left then), or the file cannot be
            written.
    """
    require_uniform(quantized)
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.export.save(with_plain_containers(quantized.program), target)
    except (OSError, RuntimeError) as error:  # torch's zip writer raises RuntimeError
        raise ExportError(f"The file {target} cannot be written: {_reason(error)}.") from error
    try:
        torch.export.load(target)
    except Exception as error:  # torch.export documents no narrower class
        target.unlink()
        raise ExportError(
            f"torch cannot read the program that it wrote to {target}: {_reason(error)}; return only tensors, in tuples, lists "
            "and dictionaries."
        ) from error
    return target


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:300] if lines else type(error).__name__
