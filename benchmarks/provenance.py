"""Where a figure comes from: the commit and the versions that produced it."""

import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["ONNX_PACKAGES", "commit", "versions"]

ROOT = Path(__file__).parent.parent
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
CODE = ("src", "benchmarks", ":!benchmarks/results")
"""A result that is measured anew changes no code."""


def commit(root: Path = ROOT) -> str:
    """Return the short hash of a checkout's commit, with `-changed` where its code differs from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(
                f"{root} has no commit that a result could name: {done.stderr.strip()}"
            )
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", *CODE)
    return git("rev-parse", "--short", "HEAD") + ("-changed" if changed else "")


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
