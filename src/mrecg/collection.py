"""Python's cyclic garbage collector, paused where a great many objects are made and none is thrown away."""

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["collection_paused"]


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Let the collector rest: while torch's compiler is imported and traces, it would look through its objects 500 times."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
