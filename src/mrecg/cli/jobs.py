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
    from mrecg.pipeline import PreparedModel
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
        from mrecg.mixed_precision.integer_program import require_solver
        from mrecg.mixed_precision.within_budget import widths_within

        if self.budget is not None or self.max_drop is not None:
            require_solver()
        inputs = self.inputs
        model = inputs.model()
        with reporter.phase("images"):
            calibration = inputs.calibration(self.recipe.seed)
        batches = inputs.evaluation(self.evaluation_images)
        with both_reports(reporter, self.tensorboard) as report:
            prepared = self._prepared(model, calibration, self.recipe, reporter)
            if self.budget is not None:
                widths_within(model, prepared.images, self.recipe, self.budget)
            before = None
            if batches is not None:
                before = measure_float(model, inputs.network, batches, reporter)
            if self.max_drop is not None:
                quantized = self._to_target(model, calibration, prepared, batches, before, report)
            else:
                found: dict[str, Any] = {}
                if self.budget is not None:
                    recipe, found = self._chosen(model, calibration, report)
                    prepared = self._prepared(model, calibration, recipe, reporter)
                note_command(self.place, self.command)
                checkpoints = prepared.checkpoints(self.place, self.plan)
                quantized = prepared.quantize(self.plan, progress=report, checkpoints=checkpoints)
                quantized = quantized.with_found(**found)
        options = inputs.described(self.evaluation_images)
        quantized = quantized.with_found(command=self.command, options=options)
        return self._measured_and_saved(quantized, before, batches, reporter)

    def _prepared(
        self,
        model: "nn.Module",
        calibration: "CalibrationImages",
        recipe: Recipe,
        reporter: "Reporter",
    ) -> "PreparedModel":
        """Prepare the network, and refuse in seconds what hours later would be in vain."""
        from mrecg.pipeline import prepare

        with reporter.phase("capture"):
            prepared = prepare(model, calibration, recipe=recipe, memory=self.memory)
        prepared.check(self.plan)
        prepared.check_storable()
        return prepared

    def _chosen(
        self, model: "nn.Module", calibration: "CalibrationImages", report: "Report"
    ) -> tuple[Recipe, dict[str, Any]]:
        """Return the recipe with the widths of the budget, and what they were chosen by."""
        from mrecg.mixed_precision.within_budget import choose_within

        assert self.budget is not None
        found, chosen = choose_within(
            model,
            calibration,
            self.recipe,
            self.budget,
            after=self.after,
            progress=report,
            memory=self.memory,
        )
        recipe = with_width_rules(self.recipe, chosen.overrides())
        return recipe, {"sensitivity": found, "bits": chosen}

    def _to_target(
        self,
        model: "nn.Module",
        calibration: "CalibrationImages",
        prepared: "PreparedModel",
        batches: "EvaluationBatches | None",
        before: "Evaluation | None",
        report: "Report",
    ) -> "QuantizedModel":
        """Return the cheapest model that holds the target, or the nearest; each try is kept until the run is finished."""
        from mrecg.mixed_precision.accuracy_target import quantize_to

        def start() -> None:
            note_command(self.place, self.command)
            prepared.checkpoints(self.place)

        if self.place.is_started:
            start()  # refuses to go on with other images or weights
        assert self.max_drop is not None
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
            float_accuracy=before,
            attempt=KeptTries(self.place.unfinished / _TRIES, start),
        )

    def _measured_and_saved(
        self,
        quantized: "QuantizedModel",
        before: "Evaluation | None",
        batches: "EvaluationBatches | None",
        reporter: "Reporter",
    ) -> "QuantizedModel":
        """Measure the quantized model where the float one was measured, unless it was, and save it.

        The result of hours is saved even if the evaluation fails.
        """
        from mrecg.distributed import is_first
        from mrecg.evaluation import evaluate, with_accuracy

        try:
            if batches is not None and before is not None:
                after = quantized.record.accuracy.get("quantized")
                if after is None:
                    counted = reporter.counted("quantized", batches, batches.count)
                    after = evaluate(quantized, counted)
                quantized = with_accuracy(quantized, before, after, batches.skipped)
        finally:
            if is_first():
                with reporter.phase("save"):
                    quantized.finish(self.place)
        return quantized
