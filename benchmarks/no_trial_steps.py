"""Watch the steps of a run, and no others."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

from mrecg import pipeline
from mrecg.preparation.prepared_graph import PreparedGraph

__all__ = ["no_trial_steps"]


@contextlib.contextmanager
def no_trial_steps() -> Iterator[None]:
    """Let runs estimate without trial steps, so that every step is one of the run."""

    def no_seconds(prepared: PreparedGraph, *_: Any) -> Mapping[str, float]:
        return dict.fromkeys((unit.name for unit in prepared.chain.units), 0.0)

    with mock.patch.object(pipeline, "try_steps", no_seconds):
        yield
