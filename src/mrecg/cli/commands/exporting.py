"""Commands for what is deployed: export a run, verify the file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mrecg.cli.consoles import app, console
from mrecg.cli.inputs import preprocessing_of, workers_or_usual
from mrecg.cli.options import AsJson, Data, Size, Workers
from mrecg.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor

    from mrecg.runs.folder import QuantizedModel

__all__ = ["export", "verify"]

LayoutName = Annotated[
    Literal["int8", "packed"],
    typer.Option("--layout", help="int8 (fast everywhere) or packed (as small as the bits)."),
]
VerifiedImages = Annotated[int, typer.Option(min=1, help="How many test images to compare on.")]


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    output: Annotated[Path, typer.Option(help="The new file: .onnx, or .pt2 for PyTorch.")],
    layout: LayoutName = "int8",
    data: Data = None,
    images: VerifiedImages = 256,
    verified: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Run the file and compare.")
    ] = True,
    size: Size = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Write a saved quantized model for a runtime, run it and prove that it computes the same."""
    from mrecg.export.pt2 import export_program
    from mrecg.runs.folder import load

    quantized = load(run)
    if output.suffix == ".pt2":
        _tell(export_program(quantized, output), as_json)
        return
    if output.suffix != ".onnx":
        raise ExportError(
            f"The file {output} ends in '{output.suffix}', expected .onnx or, for PyTorch, .pt2."
        )
    from mrecg.export.onnx.files import export_onnx

    # Images that cannot be read should not be noticed behind the export.
    chosen = _verified_images(quantized, data, images, size, workers) if verified else None
    export_onnx(quantized, output, layout, "onnxruntime" if verified else None)
    if chosen is not None:
        _verify(run, quantized, output, chosen, as_json)
    else:
        _tell(output, as_json)


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    file: Annotated[Path, typer.Argument(help="The file that was exported from it.")],
    data: Data = None,
    images: VerifiedImages = 256,
    size: Size = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Run an exported file, compare it with the simulation, and time it against float."""
    from mrecg.runs.folder import load

    quantized = load(run)
    chosen = _verified_images(quantized, data, images, size, workers)
    _verify(run, quantized, file, chosen, as_json)


def _tell(file: Path, as_json: bool) -> None:
    """Where the file is that was not run."""
    if as_json:
        console.print_json(data={"file": str(file), "verified": False})
    else:
        console.print(f"The model is in {file}, not verified.", markup=False)


def _verify(
    run: Path, quantized: "QuantizedModel", file: Path, images: "Tensor", as_json: bool
) -> None:
    from mrecg.cli.show import show_verification
    from mrecg.export.findings import save_verification
    from mrecg.export.onnx.verification import verify_onnx

    result = verify_onnx(quantized, file, images)
    save_verification(run, result)
    if as_json:
        console.print_json(result.to_json())
    else:
        show_verification(console, result, file)


def _verified_images(
    quantized: "QuantizedModel", data: str | None, count: int, size: int | None, workers: int | None
) -> "Tensor":
    """The first test images."""
    from mrecg.data import evaluation_images

    source = "fashion-mnist" if data is None else data
    preprocessing = preprocessing_of(quantized.record, source, size)
    return evaluation_images(source, count, preprocessing, workers=workers_or_usual(workers))
