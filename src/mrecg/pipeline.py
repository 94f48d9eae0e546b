"""The method, from top to bottom: prepare a model, plan its groups, optimize group by group, then the network."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from mrecg import distributed
from mrecg.cache.storage import Storage
from mrecg.config.recipe import Recipe
from mrecg.errors import PlanError, expect
from mrecg.graph.capture import export_frozen
from mrecg.graph.insert import Quantizer
from mrecg.optimize.all_groups import Reconstructed, optimize_groups
from mrecg.optimize.augmentation import Augment, check_augment
from mrecg.optimize.network import optimize_network
from mrecg.optimize.network_objective import find_answers
from mrecg.optimize.progress import PhaseClock, Progress, Report
from mrecg.planning.estimate import Estimate, estimate_run
from mrecg.planning.joint_plan import check_plan, make_plan, single_plan
from mrecg.preparation.arguments import check_arguments
from mrecg.preparation.calibration import CalibrationImages, check_image_count, gather_images
from mrecg.preparation.judging import SplitImages, split_counts, split_images
from mrecg.preparation.prepared_graph import PreparedGraph, prepare_graph
from mrecg.quantizers.state import QuantizerState
from mrecg.records.oscillation import Oscillation
from mrecg.records.plan import Plan
from mrecg.records.record import NetworkRecord, Record
from mrecg.runs.folder import QuantizedModel, environment
from mrecg.runs.graph_writer import require_storable
from mrecg.torch_state import default_torch_modes

__all__ = ["Estimate", "PreparedModel", "Progress", "prepare", "quantize"]

_PROBED = 8
"""Images that the estimate of time runs on."""


@default_torch_modes()
def quantize(
    model: nn.Module,
    calibration: CalibrationImages | Tensor | Iterable[Any] | Dataset[Any],
    *,
    recipe: Recipe,
    plan: Plan | None = None,
    quantizer: Quantizer | None = None,
    progress: Report | None = None,
    memory: int | None = None,
    augment: Augment | None = None,
) -> QuantizedModel:
    """Quantize `model` after training: `prepare` and `PreparedModel.quantize` in one call.

    Args:
        model: takes one image tensor; it is not changed.
        calibration: images as `mrecg.data.calibration_images` reads them, as a tensor, a Dataset, or an iterable of image
            tensors, batches or (images, labels).
        recipe: from `mrecg.preset` or `mrecg.read_recipe`.
        plan: replaces the recipe's plan.
        quantizer: any PT2E quantizer, in place of the recipe's placement.
        progress: called with an `Estimate`, then with `Progress`.
        memory: bytes that the activation cache may take; the rest goes to temporary files. `None` is no limit.
        augment: takes a batch of images and returns another view of it, in place of `network.augment` of the recipe; it has
            to stay close to what the float network was trained on.

    Returns:
        The quantized model with its record.

    Raises:
        MrecgError: an argument cannot be used; the message says why in a sentence.
    """
    if plan is not None:
        expect(plan, Plan, "The plan", "make one with mrecg.Plan(groups=...)", PlanError)
    prepared = prepare(model, calibration, recipe=recipe, quantizer=quantizer, memory=memory)
    return prepared.quantize(plan, progress=progress, augment=augment)


@default_torch_modes()
def prepare(
    model: nn.Module,
    calibration: CalibrationImages | Tensor | Iterable[Any] | Dataset[Any],
    *,
    recipe: Recipe,
    quantizer: Quantizer | None = None,
    memory: int | None = None,
) -> "PreparedModel":
    """Capture `model`, insert quantizers and cut it into units, in seconds.

    Args:
        model, calibration, recipe, quantizer, memory: as in `quantize`.

    Raises:
        MrecgError: an argument cannot be used; the message says why in a sentence.
    """
    started = time.perf_counter()
    check_arguments(model, calibration, recipe, quantizer, memory)
    images = gather_images(calibration)
    distributed.share_of_batch(recipe.reconstruct.batch_size)
    graph = prepare_graph(model, images, recipe, quantizer)
    source = {}
    if isinstance(calibration, CalibrationImages):
        source = {
            "skipped_images": calibration.skipped,
            "preprocessing": calibration.preprocessing,
        }
    seconds = time.perf_counter() - started
    return PreparedModel(graph, images, recipe, memory, source, seconds)


@dataclass(frozen=True)
class PreparedModel:
    """A captured model with quantizers, cut into units, that can be planned, estimated and quantized.

    Attributes:
        graph: the network.
        images: all calibration images.
        recipe: the choices.
        memory: bytes that the activation cache may take; `None` is no limit.
        source: fields of the record about where the images come from.
        seconds: that the preparation took.
    """

    graph: PreparedGraph
    images: Float[Tensor, "n ..."]
    recipe: Recipe
    memory: int | None
    source: dict[str, Any]
    seconds: float

    def check(self, plan: Plan | None = None) -> None:
        """Refuse in no time what `quantize` would refuse; worth it before something long.

        Raises:
            DataError: there are too few images.
            PlanError: the plan, or the recipe's rule, does not fit the model.
            RecipeError: `reconstruct.answer` does not fit its outputs.
        """
        check_image_count(len(self.images), self.recipe.reconstruct)
        distributed.share_of_images(self.images)
        find_answers(self.graph.chain, self.recipe)
        if plan is not None:
            check_plan(plan, self.graph.chain.units)
        elif self.recipe.plan.join != "loss":
            make_plan(self.graph.chain.units, self.recipe.plan)

    def check_storable(self) -> None:
        """Refuse a network that `QuantizedModel.save` could not write; it can be quantized all the same.

        Raises:
            RunError: naming the operator at fault.
        """
        require_storable(self.graph.graph)

    @default_torch_modes()
    def plan(self, progress: Report | None = None) -> Plan:
        """Return the recipe's plan; only the metric `loss` reads more than the shapes of the images.

        Raises:
            MrecgError: as `quantize`.
        """
        return self._plan(progress or _ignore)[0]

    @default_torch_modes()
    def estimate(self, plan: Plan | None = None, images: int | None = None) -> Estimate:
        """Estimate memory and time; the values of the images do not matter.

        The metric `loss` needs a run to know its plan; here that of `capacity` stands in for it.

        Args:
            plan: replaces the recipe's plan.
            images: how many will calibrate, if not those given.
        """
        rule, units = self.recipe.plan, self.graph.chain.units
        if plan is not None or rule.join != "loss":
            return self._estimate(self.recipe, plan or make_plan(units, rule), images)
        short = self._short_recipe()
        ahead = self._estimate(short, single_plan(units), images)
        plan = make_plan(units, rule.model_copy(update={"join": "capacity"}))
        taken = {unit.name: short.reconstruct.steps for unit in units}
        found = self._estimate(self.recipe, plan, images, taken)
        return replace(found, seconds=ahead.seconds + found.seconds)

    @default_torch_modes()
    def quantize(
        self,
        plan: Plan | None = None,
        *,
        progress: Report | None = None,
        augment: Augment | None = None,
    ) -> QuantizedModel:
        """Plan, optimize every group, optimize the network, and freeze the result.

        Args:
            plan, progress, augment: as in `mrecg.quantize`.

        Raises:
            MrecgError: the plan does not fit, or there are too few images; the message says why in a sentence.
        """
        if augment is not None:
            augment = check_augment(augment)
        report = progress or _ignore
        clock = PhaseClock(capture=self.seconds)
        self.check(plan)
        state = QuantizerState()
        if plan is None:
            plan, state = self._plan(report)
        else:
            plan = check_plan(plan, self.graph.chain.units)
        clock.lap("plan")
        report(self._estimate(self.recipe, plan, None, dict(state.steps)))
        found = self._optimize_groups(self.recipe, plan, "tune", report, state)
        clock.lap("reconstruction")
        state, network = self._optimize_network(found.state, report, augment)
        clock.lap("network")
        program = export_frozen(self.graph.freeze(state), self.images[:2].to(self.graph.device))
        clock.lap("freeze")
        record = Record(
            units=found.units,
            groups=found.groups,
            plan=plan.after([group.units for group in found.groups], found.joins),
            quantizers=self.graph.describe(state),
            oscillation=Oscillation.at_ends(found.units, [group.units for group in found.groups]),
            network=network,
            left_in_float=self.graph.left_in_float,
            images=len(self.images),
            **self.source,
            input_shape=tuple(self.images.shape[1:]),
            seconds=clock.laps,
            environment=environment(self.graph.device),
        )
        return QuantizedModel(program, record, self.recipe)

    def _plan(self, report: Report) -> tuple[Plan, QuantizerState]:
        """Return the recipe's plan, and the state of the shorter run without joins that the metric `loss` takes."""
        rule, units = self.recipe.plan, self.graph.chain.units
        if rule.join != "loss":
            return make_plan(units, rule), QuantizerState()
        check_image_count(len(self.images), self.recipe.reconstruct)
        found = self._optimize_groups(
            self._short_recipe(), single_plan(units), "plan", report, QuantizerState()
        )
        return make_plan(units, rule, [unit.loss for unit in found.units]), found.state

    def _optimize_groups(
        self, recipe: Recipe, plan: Plan, phase: str, report: Report, previous: QuantizerState
    ) -> Reconstructed:
        half = recipe.reconstruct.cache == "float16"
        storage = Storage(self.graph.device, self.memory, half)
        return optimize_groups(
            self.graph, self._split(), recipe, plan, phase, report, storage, previous
        )

    def _split(self) -> SplitImages:
        return split_images(distributed.share_of_images(self.images), self.recipe)

    def _optimize_network(
        self, state: QuantizerState, report: Report, augment: Augment | None
    ) -> tuple[QuantizerState, NetworkRecord | None]:
        steps = self.recipe.network_steps
        event = Progress("network", ("all units",), 0, 1, 0, steps, 0.0)
        state, record = optimize_network(
            self.graph,
            state,
            self._split(),
            self.recipe,
            lambda step, loss: report(replace(event, step=step, loss=loss)),
            augment,
        )
        if record is not None:
            report(replace(event, step=steps, loss=record.divergence_after, finished=True))
        return state, record

    def _short_recipe(self) -> Recipe:
        """Return the recipe of the run that the metric `loss` takes."""
        steps = round(self.recipe.reconstruct.steps * self.recipe.plan.loss_steps)
        return self.recipe.override({"reconstruct.steps": steps, "network.steps": 0})

    def _estimate(
        self,
        recipe: Recipe,
        plan: Plan,
        images: int | None,
        taken: dict[str, int] | None = None,
    ) -> Estimate:
        given = len(self.images) // distributed.count() if images is None else images
        counts = split_counts(given, self.recipe)
        probe = self.images[:_PROBED]
        return estimate_run(self.graph, probe, counts, recipe, plan, self.memory, taken)


def _ignore(event: Progress | Estimate) -> None:
    """Report to nobody."""
