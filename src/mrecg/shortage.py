"""Memory that is not enough: images that cannot fit are refused, other work is tried again in a smaller way."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from mrecg.config.texts import size
from mrecg.errors import StorageError, reason_of

__all__ = ["Parts", "Shortages", "is_shortage", "require_memory"]

_Way = TypeVar("_Way")
_Result = TypeVar("_Result")


def is_shortage(error: BaseException) -> bool:
    """Return whether an error says that memory ran out: that of a GPU, or torch's or Python's own on the host."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(
        error
    )


def require_memory(images: int, shape: Sequence[int]) -> None:
    """Refuse images that this machine's memory cannot hold, before it is asked for.

    Args:
        images: how many, as float32.
        shape: of each.

    Raises:
        StorageError: with the size that is needed.
    """
    needed, free = 4 * images * math.prod(shape), _free_memory()
    if free is not None and needed > free:
        raise StorageError(
            f"{images} images of {'×'.join(map(str, shape))} take {size(needed)} of memory, and {size(free)} are free; "
            "give fewer or smaller ones."
        )


def _free_memory() -> int | None:
    """Return the bytes of memory that are free or can be freed, `None` where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else None


class Shortages:
    """Try smaller ways where memory runs out, and tell what was changed.

    Args:
        report: called with a line for each change, once.

    Attributes:
        told: these lines.
    """

    def __init__(self, report: Callable[[str], None] = lambda line: None) -> None:
        self.told: list[str] = []
        self._report = report

    def first_that_fits(
        self, ways: Iterable[_Way], work: Callable[[_Way], _Result], line: Callable[[_Way], str]
    ) -> tuple[_Way, _Result]:
        """Return the first way for which memory is enough, and the result.

        Args:
            ways: the preferred one first.
            work: can be repeated.
            line: what to tell about a way that another one gave place to.

        Raises:
            StorageError: memory is not enough for the last one either.
        """
        for way, following in pairwise([*ways, None]):
            assert way is not None
            try:
                return way, work(way)
            except (MemoryError, RuntimeError) as error:
                if not is_shortage(error):
                    raise
                if following is None:
                    raise StorageError(
                        f"Memory is not enough, however small the parts are: {reason_of(error)}; "
                        "give smaller images, or a machine with more."
                    ) from error
            # Not before the handler's end: what failed holds on to its tensors until then.
            _release_device_memory()
            self.tell(line(following))
        raise AssertionError("there is no way to do it")

    def tell(self, line: str) -> None:
        """Report a line, unless it was reported before."""
        if line not in self.told:
            self.told.append(line)
            self._report(line)


class Parts:
    """Pass images at once as planned until memory runs out, then half as many, for good.

    Args:
        shortages: are told of it.
        what: passes, as the subject of the line.
    """

    def __init__(self, shortages: Shortages, what: str) -> None:
        self.shortages, self._what = shortages, what
        self._most: int | None = None

    def run(self, planned: int, work: Callable[[int], _Result]) -> tuple[int, _Result]:
        """Do the work with as many images at once as fit; return how many, and the result.

        Args:
            planned: images at once where memory is enough.
            work: is given how many, and can be repeated.

        Raises:
            StorageError: memory is not enough for a single one.
        """
        most = planned if self._most is None else min(self._most, planned)
        ways = [most]
        while ways[-1] > 1:
            ways.append(-(-ways[-1] // 2))
        found, result = self.shortages.first_that_fits(
            ways,
            work,
            lambda size: f"memory ran out: {self._what} take {size} images at once",
        )
        if found < most:
            self._most = found
        return found, result

    def over(
        self, images: int, planned: int, work: Callable[[int, int], _Result]
    ) -> Iterator[tuple[int, int, _Result]]:
        """Do the work for neighboring images, part by part; yield the first, the one behind the last, and the result.

        Args:
            images: all of them.
            planned: images at once where memory is enough.
            work: is given the first image and the one behind the last, and can be repeated.
        """
        first = 0
        while first < images:
            size, result = self.run(min(planned, images - first), partial(_part, work, first))
            yield first, first + size, result
            first += size


def _part(work: Callable[[int, int], _Result], first: int, size: int) -> _Result:
    return work(first, first + size)


def _release_device_memory() -> None:
    """Give back what torch keeps of a GPU's memory for later: in pieces it may be of no use."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
