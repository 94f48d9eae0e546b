"""Thousands of damaged and invented inputs: each is read, or refused on purpose; the seeds make them repeatable.

Continuous integration tries a few of each kind; `make soak` tries a thousand of each.
"""

import importlib.util
from pathlib import Path
from shutil import rmtree

import pytest

from mutations import KINDS, refusal

SHORT = {"run": 12, "unfinished": 40, "onnx network": 12, "onnx export": 6}
"""Kinds that take longer to read."""
FOUND = {"onnx network": (331, 414)}
"""Seeds that once gave a traceback."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_damaged_inputs(kind: str, tmp_path: Path) -> None:
    if "onnx" in kind and importlib.util.find_spec("onnx2fx") is None:
        pytest.skip("the extra for ONNX is not installed")
    for seed in (*range(SHORT.get(kind, 60)), *FOUND.get(kind, ())):
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            refusal(kind, seed, folder)
        except Exception as error:
            raise AssertionError(f"the {kind} of seed {seed}") from error
        rmtree(folder)
