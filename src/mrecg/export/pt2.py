"""PyTorch's own format: a `torch.export` program with PT2E's explicit quantize and dequantize operators."""

import io
from pathlib import Path

import torch

from mrecg.errors import ExportError, expect, reason_of
from mrecg.export.programs import with_plain_containers
from mrecg.export.requirements import require_uniform
from mrecg.graph.captures import forget_captures
from mrecg.runs.folder import QuantizedModel
from mrecg.writing import require_writable, write_file

__all__ = ["export_program"]


@forget_captures()
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
    expect(path, (str, Path), "The program's file", "name one", ExportError)
    target = Path(path)
    require_writable(target, ExportError)
    # In memory first: where the disk is full, torch's zip writer ends the process.
    with io.BytesIO() as contents:
        torch.export.save(with_plain_containers(quantized.program), contents)
        contents.seek(0)
        try:
            torch.export.load(contents)
        except Exception as error:  # torch.export documents no narrower class
            raise ExportError(
                f"torch cannot read the program that it writes for {target}: {reason_of(error)}; return only tensors, in tuples, "
                "lists and dictionaries."
            ) from error
        write_file(target, contents.getvalue(), ExportError)
    return target
