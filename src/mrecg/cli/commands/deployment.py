"""Commands for deployment: export a run, verify the file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mrecg.cli.consoles import console
from mrecg.cli.option_groups import command
from mrecg.cli.options import AsJson, ImageOptions, RunFolder, worker_count
from mrecg.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor

    from mrecg.runs.folder import QuantizedModel

__all__ = ["export", "verify"]

VerifiedImages = Annotated[int, typer.Option(min=1, help="How many test images to compare on.")]


@command
def export(
    run: RunFolder,
    output: Annotated[Path, typer.Option(help="The new file: .onnx, or .pt2 for PyTorch.")],
    options: ImageOptions,
    layout: Annotated[
        Literal["int8", "packed"],
        typer.Option(help="int8 (fast everywhere) or packed (as small as the bits)."),
    ] = "int8",
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="Leave height and width of the images open.")
    ] = False,
    images: VerifiedImages = 256,
    verified: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Run the file and compare.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Write a saved quantized model for a runtime, run it and prove that it computes the same."""
    from mrecg.export.pt2 import export_program
    from mrecg.runs.folder import load

    quantized = load(run)
    if output.suffix == ".pt2":
        _show_unverified(export_program(quantized, output), as_json)
        return
    if output.suffix != ".onnx":
        raise ExportError(
            f"The file {output} ends in '{output.suffix}', expected .onnx or, for PyTorch, .pt2."
        )
    from mrecg.export.onnx.files import export_onnx

    # Read the images first: unreadable ones should not be noticed after the export.
    chosen = _test_images(quantized, images, options) if verified else None
    export_onnx(quantized, output, layout, "onnxruntime" if verified else None, dynamic_size)
    if chosen is not None:
        _verify(run, quantized, output, chosen, as_json)
    else:
        _show_unverified(output, as_json)


@command
def verify(
    run: RunFolder,
    file: Annotated[Path, typer.Argument(help="The file that was exported from it.")],
    options: ImageOptions,
    images: VerifiedImages = 256,
    as_json: AsJson = False,
) -> None:
    """Run an exported file, compare it with the simulation, and time it against float."""
    from mrecg.runs.folder import load

    quantized = load(run)
    _verify(run, quantized, file, _test_images(quantized, images, options), as_json)


def _show_unverified(file: Path, as_json: bool) -> None:
    """Print where a file is that was not run."""
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


def _test_images(quantized: "QuantizedModel", count: int, options: ImageOptions) -> "Tensor":
    """Read the first test images as inputs of a run."""
    from mrecg.cli.preprocessing_choice import run_preprocessing
    from mrecg.data import evaluation_images

    source = "fashion-mnist" if options.data is None else options.data
    preprocessing = run_preprocessing(quantized.record, source, options)
    return evaluation_images(source, count, preprocessing, workers=worker_count(options.workers))
