"""Runs as pages show them, read from their folders without their tensors."""

from collections.abc import Sequence
from pathlib import Path

from mrecg.export.findings import Verification
from mrecg.report.page import make_page, run_chapter
from mrecg.report.reported_run import Latency, ReportedRun
from mrecg.runs.files import REPORT, recipe_of, record_of

__all__ = ["read_runs", "refresh_page"]


def read_runs(folders: Sequence[Path]) -> list[ReportedRun]:
    """Return runs under the names of their folders, or under their paths where two folders have one name.

    Raises:
        MrecgError: a folder holds no run, or one that cannot be read.
    """
    names = [folder.resolve().name for folder in folders]
    return [
        ReportedRun(
            name if names.count(name) == 1 else str(folder),
            record_of(folder),
            recipe_of(folder),
            _latencies(folder),
        )
        for name, folder in zip(names, folders, strict=True)
    ]


def refresh_page(folder: Path) -> Path:
    """Write the page of a run anew into its folder, with what was found since.

    Raises:
        MrecgError: the folder holds no run, or one that cannot be read, or cannot be written.
    """
    (run,) = read_runs([folder])
    make_page(run.name, [run_chapter(run)]).replace(folder / REPORT)
    return folder / REPORT


def _latencies(folder: Path) -> tuple[Latency, ...]:
    """Return the speed of the files that were exported from a run and verified."""
    found = []
    for path in sorted(folder.glob("*.verification.json")):
        verified = Verification.read(path)
        found += [
            Latency(verified.file, one.name, one.seconds, one.float_seconds, verified.file_bytes)
            for one in verified.runtimes
            if one.seconds is not None and one.float_seconds is not None
        ]
    return tuple(found)
