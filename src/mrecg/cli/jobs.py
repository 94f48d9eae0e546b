"""The job of `mrecg quantize`, and of every cell of `mrecg sweep`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mrecg.cli.float_accuracy import measure_float
from mrecg.cli.inputs import Inputs
from mrecg.cli.resumption import note_command
from mrecg.config.recipe import Recipe
from mrecg.records.plan import Plan

if TYPE_CHECKING:
    from mrecg.data import EvaluationBatches
    from mrecg.monitoring import Reporter
    from mrecg.records.evaluation import Evaluation
    from mrecg.runs.folder import QuantizedModel
    from mrecg.runs.places import RunPlace

__all__ = ["QuantizeJob"]


@dataclass(frozen=True)
class QuantizeJob:
    """One run of `mrecg quantize`, from its resolved options.

    Attributes:
        inputs: the network and the images.
        recipe, plan: as in `mrecg.quantize`.
        evaluation_images: accuracy is measured on so many; `None` for all, 0 for none.
        memory: bytes of the activation cache.
        place: the reserved folder; what is finished there is not done again.
        tensorboard: a folder for its files.
        command: that started the run, for `--resume`.
    """

    inputs: Inputs
    recipe: Recipe
    plan: Plan | None
    evaluation_images: int | None
    memory: int | None
    place: "RunPlace"
    tensorboard: Path | None
    command: tuple[str, ...]

    def run(self, reporter: "Reporter") -> "QuantizedModel":
        """Read everything and refuse what can be refused; measure, quantize, measure and save."""
        from mrecg.cli.watching import both_reports
        from mrecg.pipeline import prepare

        inputs = self.inputs
        model = inputs.model()
        with reporter.phase("images"):
            calibration = inputs.calibration(self.recipe.seed)
        batches = inputs.evaluation(self.evaluation_images)
        with both_reports(reporter, self.tensorboard) as report:
            with reporter.phase("capture"):
                prepared = prepare(model, calibration, recipe=self.recipe, memory=self.memory)
            # In seconds; the evaluation may take minutes.
            prepared.check(self.plan)
            prepared.check_storable()
            before = None
            if batches is not None:
                before = measure_float(model, inputs.network, batches, reporter)
            note_command(self.place, self.command)
            checkpoints = prepared.checkpoints(self.place, self.plan)
            quantized = prepared.quantize(self.plan, progress=report, checkpoints=checkpoints)
            quantized = quantized.with_found(command=self.command)
        return self._measured_and_saved(quantized, before, batches, reporter)

    def _measured_and_saved(
        self,
        quantized: "QuantizedModel",
        before: "Evaluation | None",
        batches: "EvaluationBatches | None",
        reporter: "Reporter",
    ) -> "QuantizedModel":
        """Measure the quantized model where the float one was measured, and save it.

        The result of hours is saved even if the evaluation fails.
        """
        from mrecg.distributed import is_first
        from mrecg.evaluation import with_accuracy

        try:
            if batches is not None and before is not None:
                counted = reporter.counted("quantized", batches, batches.count)
                quantized = with_accuracy(quantized, before, counted, batches.skipped)
        finally:
            if is_first():
                with reporter.phase("save"):
                    quantized.finish(self.place)
        return quantized
