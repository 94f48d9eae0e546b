"""The job of `mrecg quantize`, and of every cell of `mrecg sweep`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrecg.cli.float_accuracy import measure_float
from mrecg.cli.inputs import Inputs
from mrecg.cli.kept_tries import KeptTries
from mrecg.cli.resumption import note_command
from mrecg.config.recipe import Recipe
from mrecg.config.width_rules import with_width_rules
from mrecg.records.plan import Plan

if TYPE_CHECKING:
    from torch import nn

    from mrecg.data import CalibrationImages, EvaluationBatches
    from mrecg.monitoring import Reporter
    from mrecg.optimize.progress import Report
    from mrecg.records.evaluation import Evaluation
    from mrecg.runs.folder import QuantizedModel
    from mrecg.runs.places import RunPlace

__all__ = ["QuantizeJob"]

_TRIES = "tries"


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
        budget: of size, which decides the widths.
        after: steps of a reconstruction before a unit's harm is measured; `None` is a tenth of the recipe's.
        max_drop: points of top-1, or divergence, that the cheapest recipe may lose.
    """

    inputs: Inputs
    recipe: Recipe
    plan: Plan | None
    evaluation_images: int | None
    memory: int | None
    place: "RunPlace"
    tensorboard: Path | None
    command: tuple[str, ...]
    budget: str | None = None
    after: int | None = None
    max_drop: float | None = None

    def run(self, reporter: "Reporter") -> "QuantizedModel":
        """Read everything and refuse what can be refused; measure, quantize, measure and save."""
        from mrecg.cli.watching import both_reports
        from mrecg.pipeline import prepare

        inputs = self.inputs
        model = inputs.model()
        with reporter.phase("images"):
            calibration = inputs.calibration(self.recipe.seed)
        batches = inputs.evaluation(self.evaluation_images)
        before = None
        with both_reports(reporter, self.tensorboard) as report:
            if self.max_drop is not None:
                if batches is not None:
                    before = measure_float(model, inputs.network, batches, reporter)
                quantized = self._to_target(model, calibration, batches, report)
            else:
                recipe, found = self._chosen(model, calibration, report)
                with reporter.phase("capture"):
                    prepared = prepare(model, calibration, recipe=recipe, memory=self.memory)
                # In seconds; the evaluation may take minutes.
                prepared.check(self.plan)
                prepared.check_storable()
                if batches is not None:
                    before = measure_float(model, inputs.network, batches, reporter)
                note_command(self.place, self.command)
                checkpoints = prepared.checkpoints(self.place, self.plan)
                quantized = prepared.quantize(self.plan, progress=report, checkpoints=checkpoints)
                quantized = quantized.with_found(**found)
        options = inputs.described(self.evaluation_images)
        quantized = quantized.with_found(command=self.command, options=options)
        return self._measured_and_saved(quantized, before, batches, reporter)

    def _chosen(
        self, model: "nn.Module", calibration: "CalibrationImages", report: "Report"
    ) -> tuple[Recipe, dict[str, Any]]:
        """Return the recipe with the widths of the budget, and what they were chosen by."""
        from mrecg.mixed_precision.integer_program import choose_bits, require_solver
        from mrecg.mixed_precision.measurement import sensitivity

        if self.budget is None:
            return self.recipe, {}
        require_solver()
        found = sensitivity(
            model, calibration, self.recipe, after=self.after, progress=report, memory=self.memory
        )
        chosen = choose_bits(found, self.budget)
        recipe = with_width_rules(self.recipe, chosen.overrides())
        return recipe, {"sensitivity": found, "bits": chosen}

    def _to_target(
        self,
        model: "nn.Module",
        calibration: "CalibrationImages",
        batches: "EvaluationBatches | None",
        report: "Report",
    ) -> "QuantizedModel":
        """Return the cheapest model that holds the target, or the nearest; each try is kept until the run is finished."""
        from mrecg.mixed_precision.accuracy_target import quantize_to
        from mrecg.pipeline import prepare

        assert self.max_drop is not None
        prepared = prepare(model, calibration, recipe=self.recipe, memory=self.memory)
        prepared.check()
        note_command(self.place, self.command)
        prepared.checkpoints(self.place)  # a resumption is refused other images or weights
        return quantize_to(
            model,
            calibration,
            max_drop=self.max_drop,
            validation=batches,
            recipe=self.recipe,
            budget=self.budget,
            after=self.after,
            progress=report,
            memory=self.memory,
            attempt=KeptTries(self.place.unfinished / _TRIES),
        )

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
