"""One run folder per cell: finished cells are skipped, failed ones named, the rest goes on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import nn

from mrecg.data import (
    CalibrationImages,
    Crops,
    EvaluationBatches,
    Preprocessing,
    calibration_images,
    evaluation_batches,
)
from mrecg.distributed import local_device
from mrecg.errors import MrecgError
from mrecg.evaluation import Evaluation, evaluate, with_accuracy
from mrecg.pipeline import Progress, quantize
from mrecg.record import Record
from mrecg.reproduction.grid import Cell
from mrecg.reproduction.published import NETWORKS as PAPER
from mrecg.reproduction.published import find_checkpoint
from mrecg.runs import is_finished, record_of
from mrecg.zoo import NETWORKS, network

__all__ = ["Budget", "Outcome", "Sources", "reproduce"]


_BATCH = 50


class Sources(NamedTuple):
    """Where networks and images come from.

    Attributes:
        data: a data source with labels, such as `imagenet:PATH`.
        checkpoints: a folder with one checkpoint per network.
        crops: of the calibration images; the authors use random ones.
        workers: processes that decode images.
        evaluation_images: evaluate on so many only.
        size: of the images, where it is not the network's.
    """

    data: str
    checkpoints: Path
    crops: Crops = "random"
    workers: int = 0
    evaluation_images: int | None = None
    size: int | None = None

    def preprocessing(self, network: str) -> Preprocessing:
        """Of the images of one network."""
        usual = NETWORKS[network].preprocessing
        return usual if self.size is None else usual.resized(self.size)


class Budget(NamedTuple):
    """What the caller spends instead of the paper's budget.

    Attributes:
        images: how many calibrate; `None` for as many as in the paper.
        overrides: of every recipe.
    """

    images: int | None = None
    overrides: Mapping[str, Any] = {}

    def images_for(self, network: str) -> int:
        """How many images calibrate one network."""
        return self.images or PAPER[network].images


class Outcome(NamedTuple):
    """What became of a cell: its record where there is a run, else the reason."""

    cell: Cell
    status: Literal["done", "skipped", "failed"]
    record: Record | None
    reason: str = ""


def reproduce(
    cells: Sequence[Cell],
    sources: Sources,
    budget: Budget,
    output: Path,
    report: Callable[[str, Progress], None] = lambda name, event: None,
) -> Iterator[Outcome]:
    """Quantize and evaluate cell by cell, each into `output/<its name>`.

    Args:
        cells: those of one network should be neighbours: they share its checkpoint, images and float accuracy.
        sources: of networks and images.
        budget: replaces the paper's.
        output: is made; a cell whose run is already there is not run again.
        report: called with the name of a cell and what is going on.
    """
    shared: _Shared | None = None
    for cell in cells:
        folder = output / cell.name
        if is_finished(folder):
            yield Outcome(cell, "skipped", record_of(folder))
            continue
        try:
            if shared is None or shared.name != cell.network:
                shared = _Shared(cell.network, sources)
            yield Outcome(cell, "done", _run(cell, shared, budget, folder, report))
        except (MrecgError, RuntimeError, MemoryError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            yield Outcome(cell, "failed", None, reason)


@dataclass
class _Shared:
    """What the cells of one network have in common, made when the first one asks for it."""

    name: str
    sources: Sources
    _model: nn.Module | None = None
    _float: Evaluation | None = None
    _images: dict[tuple[int, int], CalibrationImages] = field(default_factory=dict)

    def model(self) -> nn.Module:
        if self._model is None:
            checkpoint = find_checkpoint(self.sources.checkpoints, self.name)
            self._model = network(self.name, checkpoint).to(local_device())
        return self._model

    def batches(self) -> EvaluationBatches:
        count, workers = self.sources.evaluation_images, self.sources.workers
        return evaluation_batches(
            self.sources.data,
            _BATCH,
            self.sources.preprocessing(self.name),
            count=count,
            workers=workers,
        )

    def float_accuracy(self) -> Evaluation:
        if self._float is None:
            self._float = evaluate(self.model(), self.batches())
        return self._float

    def calibration(self, count: int, seed: int) -> CalibrationImages:
        if (count, seed) not in self._images:
            self._images = {  # those of another seed are not needed again: a cell's images are large
                (count, seed): calibration_images(
                    self.sources.data,
                    count,
                    seed,
                    self.sources.preprocessing(self.name),
                    crops=self.sources.crops,
                    workers=self.sources.workers,
                )
            }
        return self._images[count, seed]


def _run(
    cell: Cell,
    shared: _Shared,
    budget: Budget,
    folder: Path,
    report: Callable[[str, Progress], None],
) -> Record:
    recipe = cell.recipe(budget.overrides)
    model = shared.model()
    images = shared.calibration(budget.images_for(cell.network), recipe.seed)
    before = shared.float_accuracy()
    quantized = quantize(
        model, images, recipe=recipe, progress=lambda event: report(cell.name, event)
    )
    batches = shared.batches()
    finished = with_accuracy(quantized, before, batches, batches.skipped)
    finished.save(folder)
    return finished.record
