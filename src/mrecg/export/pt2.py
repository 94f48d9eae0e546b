"""PyTorch's own format: a `torch.export` program with PT2E's explicit quantize and dequantize operators."""

from pathlib import Path

import torch

from mrecg.errors import ExportError
from mrecg.export.requirements import require_uniform
from mrecg.runs.folder import QuantizedModel

__all__ = ["export_program"]


def export_program(quantized: QuantizedModel, path: str | Path) -> Path:
    """Write a quantized model as `torch.export.save` does; it computes the simulation bit for bit.

    `torch.export.load(path).module()` reads it without mrecg, after `import torchao.quantization.pt2e` has registered
    the operators. It holds what `convert_pt2e` makes, so Inductor and other PT2E backends take it from there.

    Raises:
        ExportError: the codes are logarithms (nothing is written then), or the file cannot be written.
    """
    require_uniform(quantized)
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.export.save(quantized.program, target)
    except (OSError, RuntimeError) as error:  # torch's zip writer raises RuntimeError
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"The file {target} cannot be written: {reason}.") from error
    return target
