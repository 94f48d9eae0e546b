"""Output about exported files: agreement, size and speed."""

from pathlib import Path

from rich.console import Console

from mrecg.cli.consoles import say
from mrecg.export.findings import RuntimeRecord, Verification

__all__ = ["show_verification"]


def show_verification(console: Console, result: Verification, file: Path) -> None:
    """Show agreement, size and speed of an exported file."""
    ratio = result.file_bytes / result.ideal_bytes
    lines = [
        f"{file} computes the simulation: on {result.images} images top-1 agrees for "
        f"{result.top1_agreement:.2f} % ({result.top1_agreement_ties_apart:.2f} %, ties apart), the largest difference "
        f"is {result.largest_difference:.2g} times the output's resolution, {result.different_codes} of {result.codes} codes were ties.",
        f"size: {result.file_bytes} bytes, {ratio:.2f} times the ideal {result.ideal_bytes}",
        f"layers in integers: {len(result.integer_layers)}; in float: {', '.join(result.float_layers) or 'none'}",
        *(_speed_line(runtime) for runtime in result.runtimes),
    ]
    for line in lines:
        say(console, line)


def _speed_line(runtime: RuntimeRecord) -> str:
    if runtime.speed is None or runtime.seconds is None or runtime.float_seconds is None:
        return f"{runtime.name}: {runtime.problem}"
    return (
        f"{runtime.name}: one image takes {1e3 * runtime.seconds:.2f} ms, in float "
        f"{1e3 * runtime.float_seconds:.2f} ms: {runtime.speed:.2f} times as fast; "
        f"top-1 agrees for {runtime.top1_agreement:.2f} %"
    )
