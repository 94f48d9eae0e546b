"""The runs of the table: one folder per cell; finished cells are skipped, interrupted ones go on behind their last finished
group, failed ones are reported and the rest goes on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import nn

from mrecg import distributed
from mrecg.data import (
    CalibrationImages,
    Crops,
    EvaluationBatches,
    Preprocessing,
    calibration_images,
    evaluation_batches,
)
from mrecg.distributed import local_device
from mrecg.errors import failure_of
from mrecg.evaluation import Evaluation, evaluate, with_accuracy
from mrecg.optimize.progress import Progress, phase
from mrecg.paper.networks import NETWORKS, make_network
from mrecg.paper.published import PAPER_NETWORKS, find_checkpoint
from mrecg.paper.reproduction.table_axes import Cell
from mrecg.pipeline import prepare
from mrecg.planning.estimate import Estimate
from mrecg.records.record import Record
from mrecg.runs.finished import finished_record
from mrecg.runs.places import RunPlace, reserve

__all__ = ["Budget", "CellReport", "Outcome", "Sources", "finished_run", "reproduce", "run_alone"]

_BATCH = 50

CellReport = Callable[[str, Progress | Estimate], None]
"""Is called with the name of a cell and what is going on."""


class Sources(NamedTuple):
    """Say where networks and images come from.

    Attributes:
        data: a data source with labels, such as `imagenet:PATH`.
        checkpoints: a folder with one checkpoint per network.
        crops: of the calibration images; the authors use random ones.
        workers: processes that decode images.
        evaluation_images: evaluate on so many only.
        size: side of the images; `None` for the network's.
    """

    data: str
    checkpoints: Path
    crops: Crops = "random"
    workers: int = 0
    evaluation_images: int | None = None
    size: int | None = None

    def preprocessing(self, network: str) -> Preprocessing:
        """Return the preprocessing of the images of one network."""
        usual = NETWORKS[network].preprocessing
        return usual if self.size is None else usual.resized(self.size)

    def evaluation(self, network: str) -> EvaluationBatches:
        """Return the labeled images for one network; none is decoded yet.

        Raises:
            DataError: they cannot be read.
        """
        count, usual = self.evaluation_images, self.preprocessing(network)
        return evaluation_batches(self.data, _BATCH, usual, count=count, workers=self.workers)


class Budget(NamedTuple):
    """Say what the caller spends instead of the paper's budget.

    Attributes:
        images: number of calibration images; `None` for the paper's.
        overrides: settings changed in every recipe.
    """

    images: int | None = None
    overrides: Mapping[str, Any] = {}

    def images_for(self, network: str) -> int:
        """Return the number of calibration images of one network."""
        return self.images or PAPER_NETWORKS[network].images


class Outcome(NamedTuple):
    """Say what became of a cell: its record where there is a run, else the reason."""

    cell: Cell
    status: Literal["done", "skipped", "failed"]
    record: Record | None
    reason: str = ""


def reproduce(
    cells: Sequence[Cell],
    sources: Sources,
    budget: Budget,
    output: Path,
    report: CellReport = lambda name, event: None,
) -> Iterator[Outcome]:
    """Quantize and evaluate cell by cell, each into `output/<its name>`.

    Args:
        cells: sorted by network: consecutive cells of one share its checkpoint, images and float accuracy.
        sources: where networks and images come from.
        budget: replaces the paper's.
        output: folder of the runs; a cell whose run is there is skipped, or goes on where it was interrupted, and fails if
            that has other settings.
        report: called with the name of a cell and what is going on.
    """
    shared: _Shared | None = None
    for cell in cells:
        folder = output / cell.name
        try:
            found = finished_run(cell, sources, budget, folder)
            distributed.wait()
            if found is not None:
                yield Outcome(cell, "skipped", found)
                continue
            if shared is None or shared.name != cell.network:
                shared = _Shared(cell.network, sources)
            with reserve(folder, resume=RunPlace(folder).is_started, together=True) as place:
                record = _run(cell, shared, budget, place, report)
            yield Outcome(cell, "done", record)
        except Exception as error:  # whatever it is, the rest goes on
            yield Outcome(cell, "failed", None, failure_of(error))


def run_alone(cell: Cell, sources: Sources, budget: Budget, output: Path) -> Outcome:
    """Return what becomes of a single cell, in a process of its own."""
    return next(reproduce([cell], sources, budget, output))


def finished_run(cell: Cell, sources: Sources, budget: Budget, folder: Path) -> Record | None:
    """Return the record of a cell's run in `folder`, if there is one.

    Raises:
        RunError: it is a run of other settings or images than are asked for.
    """
    return finished_record(folder, cell.recipe(budget.overrides), _options(cell, sources, budget))


def _options(cell: Cell, sources: Sources, budget: Budget) -> dict[str, Any]:
    """Return what is asked for besides the recipe, as a record keeps it."""
    return {
        "network": cell.network,
        "data": sources.data,
        "checkpoints": str(sources.checkpoints),
        "crops": sources.crops,
        "images": budget.images_for(cell.network),
        "size": sources.preprocessing(cell.network).crop,
        "evaluation_images": sources.evaluation_images,
    }


@dataclass
class _Shared:
    """Hold what the cells of one network have in common, read when the first cell asks for it."""

    name: str
    sources: Sources
    _model: nn.Module | None = None
    _float: Evaluation | None = None
    _images: dict[tuple[int, int], CalibrationImages] = field(default_factory=dict)

    def model(self) -> nn.Module:
        if self._model is None:
            checkpoint = find_checkpoint(self.sources.checkpoints, self.name)
            self._model = make_network(self.name, checkpoint).to(local_device())
        return self._model

    def float_accuracy(self) -> Evaluation:
        if self._float is None:
            self._float = evaluate(self.model(), self.sources.evaluation(self.name))
        return self._float

    def calibration(self, count: int, seed: int) -> CalibrationImages:
        if (count, seed) not in self._images:
            self._images = {  # replaces those of another seed: 4,096 images take 2.5 GB
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
    place: RunPlace,
    report: CellReport,
) -> Record:
    """Run a cell in its reserved folder, from the beginning or behind what is finished there."""

    def show(event: Progress | Estimate) -> None:
        report(cell.name, event)

    recipe = cell.recipe(budget.overrides)
    model = shared.model()
    with phase(show, "images"):
        images = shared.calibration(budget.images_for(cell.network), recipe.seed)
    with phase(show, "float"):
        before = shared.float_accuracy()
    with phase(show, "capture"):
        prepared = prepare(model, images, recipe=recipe)
    quantized = prepared.quantize(progress=show, checkpoints=prepared.checkpoints(place))
    batches = shared.sources.evaluation(shared.name)
    with phase(show, "quantized"):
        after = evaluate(quantized, batches)
        finished = with_accuracy(quantized, before, after, batches.skipped)
    finished = finished.with_found(options=_options(cell, shared.sources, budget))
    if distributed.is_first():
        finished.finish(place)
    distributed.wait()
    return finished.record
