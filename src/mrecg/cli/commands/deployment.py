"""Commands for deployment: export a run, verify the file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mrecg.cli.consoles import console, say
from mrecg.cli.option_groups import command
from mrecg.cli.options import ImageOptions, ProgressOptions, RunFolder, worker_count
from mrecg.errors import DataError, ExportError
from mrecg.writing import require_writable

if TYPE_CHECKING:
    from torch import Tensor

    from mrecg.export.findings import Verification
    from mrecg.monitoring import Reporter
    from mrecg.runs.folder import QuantizedModel

__all__ = ["export", "verify"]

ComparedImages = Annotated[
    int, typer.Option(min=1, metavar="N", help="How many test images to compare on.")
]


@command
def export(
    run: RunFolder,
    output: Annotated[
        Path, typer.Option(metavar="FILE", help="The new file: .onnx, or .pt2 for PyTorch.")
    ],
    options: ImageOptions,
    shown: ProgressOptions,
    layout: Annotated[
        Literal["int8", "packed"],
        typer.Option(help="int8 (fast everywhere) or packed (as small as the bits)."),
    ] = "int8",
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="Leave height and width of the images open.")
    ] = False,
    evaluation_images: ComparedImages = 256,
    verified: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Run the file and compare.")
    ] = True,
) -> None:
    """Write a saved quantized model for a runtime, run it and prove that it computes the same.

    It is compared on the images that the run remembers. Where there are none, it is written all the same, and said not to be compared.

    Example: mrecg export runs/first --output first.onnx
    """
    from mrecg.cli.watching import reporting

    if output.suffix not in (".onnx", ".pt2"):
        raise ExportError(
            f"The file {output} ends in '{output.suffix}', expected .onnx or, for PyTorch, .pt2."
        )
    require_writable(output, ExportError)
    with reporting(shown) as reporter:
        if output.suffix == ".pt2":
            found: Verification | str = _write_program(run, output, reporter)
        else:
            count = evaluation_images if verified else None
            found = _write_onnx(run, output, layout, dynamic_size, count, options, reporter)
    if not isinstance(found, str):
        _show(found, output, shown.as_json)
    elif shown.as_json:
        console.print_json(data={"file": str(output), "verified": False, "reason": found})
    else:
        say(console, f"The model is in {output}, not compared with the simulation: {found}")


@command
def verify(
    run: RunFolder,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file that was exported from it.")
    ],
    options: ImageOptions,
    shown: ProgressOptions,
    evaluation_images: ComparedImages = 256,
) -> None:
    """Run an exported file, compare it with the simulation, and time it against float.

    Example: mrecg verify runs/first first.onnx
    """
    from mrecg.cli.watching import reporting

    with reporting(shown) as reporter:
        quantized = _loaded(run, reporter)
        images = _test_images(quantized, evaluation_images, options, reporter)
        found = _compare(run, quantized, file, images, reporter)
    _show(found, file, shown.as_json)


def _loaded(run: Path, reporter: "Reporter") -> "QuantizedModel":
    from mrecg.runs.folder import load

    with reporter.phase("load"):
        return load(run)


def _write_program(run: Path, output: Path, reporter: "Reporter") -> str:
    """Write a file for PyTorch; return why it is not compared."""
    from mrecg.export.pt2 import export_program

    quantized = _loaded(run, reporter)
    with reporter.phase("export"):
        export_program(quantized, output)
    return "it is the simulation itself."


def _write_onnx(
    run: Path,
    output: Path,
    layout: Literal["int8", "packed"],
    dynamic_size: bool,
    count: int | None,
    options: ImageOptions,
    reporter: "Reporter",
) -> "Verification | str":
    """Write an ONNX file, and compare it on `count` images; return what that showed, or why it was not compared."""
    from mrecg.export.onnx.files import export_onnx

    quantized = _loaded(run, reporter)
    # Read the images first: unreadable ones should not be noticed after the export.
    images, reason = None, "--no-verify was given."
    if count is not None:
        images, reason = _images_if_any(quantized, count, options, reporter)
    with reporter.phase("export"):
        runtime: Literal["onnxruntime"] | None = None if count is None else "onnxruntime"
        export_onnx(quantized, output, layout, runtime, dynamic_size=dynamic_size)
    return reason if images is None else _compare(run, quantized, output, images, reporter)


def _compare(
    run: Path, quantized: "QuantizedModel", file: Path, images: "Tensor", reporter: "Reporter"
) -> "Verification":
    """Run a file and compare it; keep what that showed in the run."""
    from mrecg.cli.run_pages import refresh_page
    from mrecg.export.findings import save_verification
    from mrecg.export.onnx.verification import verify_onnx

    with reporter.phase("verify"):
        found = verify_onnx(quantized, file, images)
    save_verification(run, found)
    refresh_page(run)
    return found


def _show(found: "Verification", file: Path, as_json: bool) -> None:
    from mrecg.cli.show import show_verification

    if as_json:
        console.print_json(found.to_json())
    else:
        show_verification(console, found, file)


def _images_if_any(
    quantized: "QuantizedModel", count: int, options: ImageOptions, reporter: "Reporter"
) -> tuple["Tensor | None", str]:
    """Read test images; where the run's own cannot be read, return why.

    Raises:
        DataError: images that the caller names cannot be read.
    """
    try:
        return _test_images(quantized, count, options, reporter), ""
    except DataError as error:
        if options.data is not None:
            raise
        return None, str(error)


def _test_images(
    quantized: "QuantizedModel", count: int, options: ImageOptions, reporter: "Reporter"
) -> "Tensor":
    """Read the first test images as inputs of a run."""
    from mrecg.cli.preprocessing_choice import run_preprocessing
    from mrecg.cli.remembered import source_of
    from mrecg.data import evaluation_images

    source = source_of(quantized.record, options, reporter)
    preprocessing = run_preprocessing(quantized.record, source, options)
    workers = worker_count(options.workers)
    with reporter.phase("images"):
        return evaluation_images(source, count, preprocessing, workers=workers)
