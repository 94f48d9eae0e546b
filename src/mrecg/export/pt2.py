"""PyTorch's own format: a `torch.export` program with PT2E's explicit quantize and dequantize operators."""

import io
from pathlib import Path

import torch

from mrecg.errors import ExportError
from mrecg.export.requirements import require_uniform
from mrecg.runs.folder import QuantizedModel
from mrecg.writing import require_writable, write_file

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
    require_writable(target, ExportError)
    # In memory first: where the disk is full, torch's zip writer ends the process.
    contents = io.BytesIO()
    torch.export.save(quantized.program, contents)
    write_file(target, contents.getvalue(), ExportError)
    return target
