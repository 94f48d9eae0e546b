"""Output about exported files: agreement, size and speed."""

from pathlib import Path

from rich.console import Console

from mrecg.cli.consoles import say
from mrecg.export.findings import OutputRecord, RuntimeRecord, Verification

__all__ = ["show_verification"]

_SATURATES = (
    "This processor's products of 8-bit weights with 8-bit activations saturate, as on every x86 without VNNI: the file is right "
    "where they do not; for such processors, quantize with --backend onnxruntime_avx2."
)


def show_verification(console: Console, result: Verification, file: Path) -> None:
    """Show agreement, size and speed of an exported file."""
    ratio = result.file_bytes / result.ideal_bytes
    lines = [
        f"{file} computes the simulation: on {result.images} images {_agreement(result)}the largest difference "
        f"is {result.largest_difference:.2g} times the output's resolution, {result.different_codes} of {result.codes} codes were ties.",
        *(_output_line(output) for output in result.outputs if len(result.outputs) > 1),
        f"size: {result.file_bytes} bytes, {ratio:.2f} times the ideal {result.ideal_bytes}",
        f"layers in integers: {len(result.integer_layers)}; in float: {', '.join(result.float_layers) or 'none'}",
        *(_speed_line(runtime) for runtime in result.runtimes),
        *([_SATURATES] if result.saturates else []),
    ]
    for line in lines:
        say(console, line)


def _agreement(result: Verification) -> str:
    if result.top1_agreement is None:
        return ""
    return f"top-1 agrees for {result.top1_agreement:.2f} % ({result.top1_agreement_ties_apart:.2f} %, ties apart), "


def _output_line(output: OutputRecord) -> str:
    parts = []
    if output.difference is not None and output.relative_error is not None:
        parts = [
            f"at most {output.difference:.2g} output steps apart",
            f"relative error {output.relative_error:.2g}",
        ]
    if output.agreement is not None:
        parts.append(
            f"equal for {output.agreement:.2f} %"
            if not parts
            else f"class equal for {output.agreement:.2f} %"
        )
    return f"output {output.name}: {', '.join(parts)}"


def _speed_line(runtime: RuntimeRecord) -> str:
    if runtime.speed is None or runtime.seconds is None or runtime.float_seconds is None:
        return f"{runtime.name}: {runtime.problem}"
    agreement = runtime.top1_agreement
    return (
        f"{runtime.name}: one image takes {1e3 * runtime.seconds:.2f} ms, in float "
        f"{1e3 * runtime.float_seconds:.2f} ms: {runtime.speed:.2f} times as fast"
        f"{'' if agreement is None else f'; top-1 agrees for {agreement:.2f} %'}"
    )
