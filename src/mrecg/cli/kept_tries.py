"""Tries for a target of accuracy that survive an interruption: each is a run in a folder of its own."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrecg.config.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from mrecg.optimize.progress import Report
    from mrecg.runs.folder import QuantizedModel

__all__ = ["KeptTries"]


@dataclass(frozen=True)
class KeptTries:
    """Quantizes with one recipe after the other, as `mrecg.quantize` does; what is finished is not done again.

    Attributes:
        folder: holds the runs, all of one network and the same images.
        start: is called before a run that is new; from then on there is something to go on with.
    """

    folder: Path
    start: Callable[[], None]

    def __call__(
        self,
        model: "nn.Module",
        images: Any,
        *,
        recipe: Recipe,
        progress: "Report",
        memory: int | None,
    ) -> "QuantizedModel":
        """Return the run of a recipe: a finished one, one that goes on, or a new one."""
        from mrecg.quantization import quantize, resume
        from mrecg.runs.files import is_finished
        from mrecg.runs.folder import load
        from mrecg.runs.places import RunPlace

        name = hashlib.blake2b(recipe.to_yaml().encode(), digest_size=8).hexdigest()
        folder = self.folder / name
        if is_finished(folder):
            return load(folder)
        if RunPlace(folder).is_started:
            return resume(folder, model, images, progress=progress, memory=memory)
        self.start()
        return quantize(
            model, images, recipe=recipe, progress=progress, memory=memory, folder=folder
        )
