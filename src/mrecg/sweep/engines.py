"""Engines that carry out cells: one after the other in this process, or on a Ray cluster."""

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from mrecg.errors import MrecgError, failure_of, first_line, reason_of

__all__ = ["Finished", "RayCluster", "Work", "run_in_series"]

_Result = TypeVar("_Result")


class Work(NamedTuple, Generic[_Result]):
    """Something to be done by itself, in any process that sees the same folders.

    Attributes:
        name: of the cell.
        run: does it; what it did so far, it finds again when it is called once more.
    """

    name: str
    run: Callable[[], _Result]


class Finished(NamedTuple, Generic[_Result]):
    """Outcome of one piece of work.

    Attributes:
        name: of the cell.
        result: `None` where it failed.
        reason: why it failed, in a sentence.
    """

    name: str
    result: _Result | None
    reason: str = ""


def run_in_series(work: Sequence[Work[_Result]]) -> Iterator[Finished[_Result]]:
    """Do one after the other; one that fails is reported, and the rest goes on."""
    for one in work:
        yield _attempt(one)


def _attempt(work: Work[_Result]) -> Finished[_Result]:
    try:
        return Finished(work.name, work.run())
    except Exception as error:  # a cell runs anybody's code, and the rest goes on
        return Finished(work.name, None, failure_of(error))


@dataclass(frozen=True)
class RayCluster:
    """A cluster of Ray, whose workers see the same folders as this process.

    Attributes:
        address: `local` starts one on this machine; `auto` finds the one that this machine belongs to; or an address.
        cpus, gpus: what a cell takes; torch computes with as many threads as CPUs, which decide the last bits of a result.
        retries: how often a cell whose process or machine is lost starts again, behind what it finished.
    """

    address: str
    cpus: int = 1
    gpus: float = 0
    retries: int = 3

    def run(self, work: Sequence[Work[_Result]]) -> Iterator[Finished[_Result]]:
        """Yield what is finished, in the order in which it is.

        Raises:
            MrecgError: Ray is not installed, or there is no such cluster.
        """
        ray = self._connect()
        try:
            attempt = ray.remote(_attempt_there).options(
                num_cpus=self.cpus, num_gpus=self.gpus, max_retries=self.retries
            )
            pending = {attempt.remote(one, str(Path.cwd()), self.cpus): one for one in work}
            while pending:
                with contextlib.redirect_stdout(sys.stderr):  # where Ray says that a worker died
                    (ready, *_), _ = ray.wait(list(pending))
                yield self._result(ray, ready, pending.pop(ready))
        finally:
            ray.shutdown()

    def _connect(self) -> Any:
        try:
            ray = importlib.import_module("ray")
        except ModuleNotFoundError as error:
            raise MrecgError("Ray is not installed; run pip install 'mrecg[ray]'.") from error
        try:
            ray.init(
                self.address, log_to_driver=False, logging_level="error", include_dashboard=False
            )
        except Exception as error:  # Ray documents no narrower class
            raise MrecgError(
                f"The Ray cluster '{self.address}' cannot be reached: {reason_of(error)}; start one with "
                "ray start --head, or give --ray local."
            ) from error
        return ray

    def _result(self, ray: Any, ready: Any, work: Work[_Result]) -> Finished[_Result]:
        try:
            found: Finished[_Result] = ray.get(ready)
        except ray.exceptions.RayError as error:
            return Finished(work.name, None, f"{first_line(error)}.")
        return found


def _attempt_there(work: Work[_Result], folder: str, threads: int) -> Finished[_Result]:
    """Do it in a worker, where relative paths are those of the caller."""
    import torch

    os.chdir(folder)
    torch.set_num_threads(threads)
    return _attempt(work)
