"""Leftovers of captures, which torch keeps as long as the process lives: a quarter of a MiB for each run, if nothing forgets them."""

import contextlib
import linecache
from collections.abc import Iterator

from torch.export import ExportedProgram
from torch.fx import graph_module
from torch.fx.experimental.symbolic_shapes import ShapeEnv

__all__ = ["forget_captures", "release_inputs"]


@contextlib.contextmanager
def forget_captures() -> Iterator[None]:
    """Forget, where the context ends well, what torch keeps of the graphs that are captured and generated in it.

    These are the symbols of shapes, which caches of methods hold and which no later capture reads; and the sources of
    generated code, which only tracebacks show, so that an error leaves them.
    """
    sources = graph_module._loader.eval_cache
    before = set(sources)
    yield
    for method in vars(ShapeEnv).values():
        if hasattr(method, "cache_clear"):
            method.cache_clear()
    for name in set(sources) - before:
        sources.pop(name, None)
        linecache.cache.pop(name, None)


def release_inputs(program: ExportedProgram) -> None:
    """Let the symbols of a program's shapes go of the inputs that it was traced with, which nothing reads afterwards.

    The sizes of these inputs hold the symbols, where Python's garbage collector does not see it: none would ever be freed.
    """
    for node in program.graph.find_nodes(op="placeholder"):
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None and mode.shape_env is not None:
            mode.shape_env.tracked_fakes = None
