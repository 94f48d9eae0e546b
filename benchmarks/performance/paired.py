"""The steps of two versions of this code, taken in turns in one process on equal networks and images.

Both versions run `mrecg.quantize`, each in a thread of its own that waits after every step, so that the comparison needs
nothing of a version but its public functions. Where both register operators of the same name with torch, they cannot
share a process.
"""

import contextlib
import copy
import importlib
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn

from benchmarks.performance.random_network import random_network
from benchmarks.provenance import commit

__all__ = ["Version", "compare", "steps_in_turns"]

PACKAGE = "mrecg"
STEPS = 39
"""A run that is any longer does not report every step."""
WARM_UP = 10
"""Steps that are not counted; the penalty sets in after a fifth of all."""


class Version:
    """Hold the modules of one version of the package, which are imported only while it runs."""

    def __init__(self, modules: dict[str, ModuleType]) -> None:
        self._modules = modules

    @classmethod
    def current(cls) -> "Version":
        """Return the version that is imported anyway."""
        importlib.import_module(PACKAGE)
        return cls({name: sys.modules[name] for name in _imported()})

    @classmethod
    def of(cls, checkout: Path) -> "Version":
        """Return the version in a checkout."""
        source = (checkout / "src").resolve()
        if not (source / PACKAGE).is_dir():
            raise SystemExit(f"There is no src/{PACKAGE} in {checkout}; name another checkout.")
        version = cls({})
        sys.path.insert(0, str(source))
        try:
            with version.imported():
                importlib.import_module(PACKAGE)
        finally:
            sys.path.remove(str(source))
        return version

    @contextlib.contextmanager
    def imported(self) -> Iterator[None]:
        """Let `import` find this version's modules."""
        others = _taken_out()
        sys.modules.update(self._modules)
        try:
            yield
        finally:
            self._modules = _taken_out()
            sys.modules.update(others)


def _imported() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == PACKAGE]


def _taken_out() -> dict[str, ModuleType]:
    return {name: sys.modules.pop(name) for name in _imported()}


class TimedStep(NamedTuple):
    """Record one step of a group, and the CPU seconds it took."""

    group: tuple[str, ...]
    step: int
    seconds: float


class _Run:
    """Run one version, and wait after every step."""

    def __init__(self, version: Version, quantize: Callable[[Callable[[Any], None]], Any]) -> None:
        self._version, self._quantize = version, quantize
        self._go, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self._last: TimedStep | None = None
        self._error: BaseException | None = None
        self._started = 0.0
        threading.Thread(target=self._work, daemon=True).start()

    def advance(self) -> TimedStep | None:
        """Take one step, or return nothing where the run is finished."""
        self._last = None
        with self._version.imported():
            self._go.release()
            self._waits.acquire()
        if self._error is not None:
            raise self._error
        return self._last

    def _work(self) -> None:
        self._go.acquire()
        try:
            self._quantize(self._report)
        except BaseException as error:  # it is raised where the run is awaited
            self._error = error
        self._waits.release()

    def _report(self, event: Any) -> None:
        if not getattr(event, "step", 0) or event.finished or event.phase == "network":
            return  # an estimate, the end of a group, or the stage after all of them
        seconds = time.process_time() - self._started
        self._last = TimedStep(event.group, event.step, seconds)
        self._waits.release()
        self._go.acquire()
        self._started = time.process_time()


def steps_in_turns(
    versions: tuple[Version, Version],
    model: nn.Module,
    images: Tensor,
    preset: str,
    settings: dict[str, Any],
) -> Iterator[tuple[TimedStep, TimedStep]]:
    """Yield the same step of both versions, one after the other, through all groups."""

    def quantize(report: Callable[[Any], None]) -> None:
        package = importlib.import_module(PACKAGE)
        recipe = package.preset(preset, settings)
        package.quantize(copy.deepcopy(model), images, recipe=recipe, progress=report)

    first, second = (_Run(version, quantize) for version in versions)
    while True:
        ours, theirs = first.advance(), second.advance()
        if ours is None and theirs is None:
            return
        if ours is None or theirs is None or ours[:2] != theirs[:2]:
            raise SystemExit(f"The versions take other steps: {ours} and {theirs}.")
        yield ours, theirs


def compare(checkout: Path, network: str, side: int, method: str, batch: int) -> dict[str, Any]:
    """Time every unit's step in this version and in that of a checkout."""
    model, images = random_network(network, side, batch)
    settings = {
        "reconstruct.steps": STEPS,
        "reconstruct.batch_size": batch,
        "reconstruct.early_stop": False,
    }
    versions = Version.current(), Version.of(checkout)
    against = commit(checkout)
    times: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for steps in steps_in_turns(versions, model, images, f"w2a4-{method}", settings):
        if steps[0].step > WARM_UP:
            for step, seconds in zip(steps, times["+".join(steps[0].group)], strict=True):
                seconds.append(1e3 * step.seconds)
    units: list[dict[str, Any]] = [
        {"unit": name, "ms": statistics.median(ours), "against_ms": statistics.median(theirs)}
        for name, (ours, theirs) in times.items()
    ]
    return {
        "network": network,
        "side": side,
        "method": method,
        "batch": batch,
        "ratio": statistics.geometric_mean(unit["ms"] / unit["against_ms"] for unit in units),
        "units": units,
        "against": against,
        "commit": commit(),
    }
