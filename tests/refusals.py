"""What a run that means harm must end in: a sentence, and nothing executed."""

from pathlib import Path

import pytest

import mrecg
from mrecg.errors import RunError

__all__ = ["assert_refused"]


def assert_refused(run: Path, canary: Path, message: str | None = None) -> None:
    """Assert that a run folder is refused in one sentence, and that no code of it wrote the canary."""
    with pytest.raises(RunError, match=message) as caught:
        mrecg.load(run)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 700
    assert not canary.exists()
