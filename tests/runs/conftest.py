"""A finished run, saved once."""

from pathlib import Path

import pytest

import run_folders


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run; not to be changed."""
    return run_folders.quantized().save(tmp_path_factory.mktemp("runs") / "chain")


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    """The folder of a run that a test may change."""
    return run_folders.copy(saved, tmp_path / "run")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that exists when code was executed."""
    return tmp_path / "canary"
