"""The method, from top to bottom: prepare a model, plan its groups, optimize group by group, then the network."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from mrecg import distributed
from mrecg.cache.storage import Storage
from mrecg.config.presets import DEFAULT_PRESET
from mrecg.config.recipe import Recipe
from mrecg.errors import ModelError, RecipeError
from mrecg.freed_memory import freed_memory_kept
from mrecg.graph.capture import export_frozen
from mrecg.graph.captures import forget_captures
from mrecg.graph.inputs import ModelInputs, NamedInputs, shapes
from mrecg.graph.insert import Quantizer
from mrecg.monitoring import watched
from mrecg.optimize.all_groups import Reconstructed, optimize_groups
from mrecg.optimize.augmentation import Augment, check_augment
from mrecg.optimize.checkpoints import Checkpoints
from mrecg.optimize.finite import require_finite_activations
from mrecg.optimize.network import optimize_network
from mrecg.optimize.network_objective import find_answers
from mrecg.optimize.progress import PhaseClock, Progress, Report, ignore, phase
from mrecg.optimize.trial import try_steps
from mrecg.planning.budget import fit_budget, positions_of
from mrecg.planning.estimate import Estimate, estimate_run
from mrecg.planning.joint_plan import check_plan, make_plan, single_plan
from mrecg.preparation.arguments import check_arguments, resolve_memory, resolve_recipe
from mrecg.preparation.calibration import CalibrationImages, check_image_count, gather_inputs
from mrecg.preparation.judging import SplitImages, split_counts, split_images
from mrecg.preparation.models import fit_inputs
from mrecg.preparation.prepared_graph import PreparedGraph, prepare_graph
from mrecg.quantizers.state import QuantizerState
from mrecg.records.oscillation import Oscillation
from mrecg.records.plan import Plan
from mrecg.records.record import NetworkRecord, Record
from mrecg.runs.checkpoints import describe_inputs
from mrecg.runs.files import RECIPE
from mrecg.runs.folder import QuantizedModel, environment
from mrecg.runs.graph_writer import require_storable
from mrecg.runs.places import RunPlace
from mrecg.runs.sizes import model_size
from mrecg.shortage import Shortages
from mrecg.torch_state import default_torch_modes

__all__ = ["PLAN", "PreparedModel", "prepare"]

PLAN = "plan.json"
"""Beside the checkpoints of an unfinished run whose plan was given."""
_PROBED = 8
"""Images that the estimate of time runs on; a single one where nothing is learned, which takes no longer than an estimate."""
_FREEZING = 0.5
"""Time of the finished graph's capture, as a fraction of that of the float network with quantizers and their ranges."""


@default_torch_modes()
@forget_captures()
def prepare(
    model: nn.Module,
    calibration: CalibrationImages | Tensor | Iterable[Any] | Dataset[Any],
    *,
    recipe: Recipe | str = DEFAULT_PRESET,
    quantizer: Quantizer | None = None,
    memory: int | str | None = None,
) -> "PreparedModel":
    """Capture `model`, insert quantizers and cut it into units, in seconds.

    Args:
        model, calibration, recipe, quantizer, memory: as in `quantize`.

    Raises:
        MrecgError: an argument cannot be used; the message says why in a sentence.
    """
    started = time.perf_counter()
    chosen, budget = resolve_recipe(recipe), resolve_memory(memory)
    check_arguments(model, calibration, quantizer)
    images = fit_inputs(model, gather_inputs(calibration), "the calibration set")
    recipe = fit_budget(chosen, positions_of(images))
    distributed.share_of_batch(recipe.reconstruct.images_per_step)
    graph = prepare_graph(model, images, recipe, quantizer)
    source = {}
    if isinstance(calibration, CalibrationImages):
        source = {
            "skipped_images": calibration.skipped,
            "preprocessing": calibration.preprocessing,
            "source": calibration.source,
        }
    seconds = time.perf_counter() - started
    return PreparedModel(graph, images, recipe, budget, source, seconds)


@dataclass(frozen=True)
class PreparedModel:
    """A captured model with quantizers, cut into units, that can be planned, estimated and quantized.

    Attributes:
        graph: the network.
        images: the inputs for all calibration images.
        recipe: the choices.
        memory: bytes that the activation cache may take; `None` is no limit.
        source: fields of the record about where the images come from.
        seconds: that the preparation took.
    """

    graph: PreparedGraph
    images: ModelInputs
    recipe: Recipe
    memory: int | None
    source: dict[str, Any]
    seconds: float

    @default_torch_modes()
    def check(self, plan: Plan | None = None) -> None:
        """Refuse in no time what `quantize` would refuse; worth it before something long.

        Raises:
            DataError: there are too few images, or the float network gives NaN or infinite values for some of the first.
            ModelError: it gives such values for all of them.
            PlanError: the plan, or the recipe's rule, does not fit the model.
            RecipeError: `reconstruct.answer` does not fit its outputs.
        """
        self._check_arguments(plan)
        self._require_finite(_PROBED)

    def _check_arguments(self, plan: Plan | None) -> None:
        check_image_count(len(self.images), self.recipe.reconstruct)
        distributed.share_of_images(self.images)
        find_answers(self.graph.chain, self.recipe)
        if plan is not None:
            check_plan(plan, self.graph.chain.units)
        elif self.recipe.plan.join != "loss":
            make_plan(self.graph.chain.units, self.recipe.plan)

    def _require_finite(self, count: int | None = None, shortages: Shortages | None = None) -> None:
        """Refuse what the float network makes no numbers of: of the first images, or of all of this process."""
        images = distributed.share_of_images(self.images)[:count]
        numbers = range(len(self.images))[distributed.rank() :: distributed.count()]
        require_finite_activations(self.graph, images, numbers, shortages)

    def check_storable(self) -> None:
        """Refuse a network that `QuantizedModel.save` could not write; it can be quantized all the same.

        Raises:
            RunError: naming the operator at fault.
        """
        require_storable(self.graph.graph)

    @default_torch_modes()
    def plan(self, progress: Report | bool | None = None) -> Plan:
        """Return the recipe's plan; only the metric `loss` reads more than the shapes of the images.

        Args:
            progress: as in `mrecg.quantize`.

        Raises:
            MrecgError: as `quantize`.
        """
        if self.recipe.plan.join == "loss":
            self._require_finite()
        with watched(progress) as report:
            return self._plan(report, Shortages())[0]

    @default_torch_modes()
    @freed_memory_kept()
    def estimate(self, plan: Plan | None = None, images: int | None = None) -> Estimate:
        """Estimate memory and time from a few steps; the values of the images do not matter.

        In a run of several processes each of them calls it. The metric `loss` needs a run to know its plan; here that of `capacity`
        stands in for it.

        Args:
            plan: replaces the recipe's plan.
            images: how many will calibrate, if not those given.
        """
        rule, units = self.recipe.plan, self.graph.chain.units
        by_loss = plan is None and rule.join == "loss"
        if by_loss:
            rule = rule.model_copy(update={"join": "capacity"})
        plan = plan or make_plan(units, rule)
        in_a_step = try_steps(self.graph, self.images, self.recipe)
        if not by_loss:
            return self._estimate(self.recipe, plan, in_a_step, images)
        short = self._short_recipe()
        ahead = self._estimate(short, single_plan(units), in_a_step, images)
        taken = {unit.name: short.reconstruct.step_count for unit in units}
        return self._estimate(self.recipe, plan, in_a_step, images, taken).behind(ahead)

    @default_torch_modes()
    @forget_captures()
    def quantize(
        self,
        plan: Plan | None = None,
        *,
        progress: Report | bool | None = None,
        augment: Augment | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> QuantizedModel:
        """Plan, optimize every group, optimize the network, and freeze the result.

        Args:
            plan, progress, augment: as in `mrecg.quantize`.
            checkpoints: keeps what is finished; what it gives back is not done again.

        Raises:
            MrecgError: the plan does not fit, or there are too few images; the message says why in a sentence.
        """
        if augment is not None:
            augment = check_augment(augment)
        with watched(progress) as report:
            return self._quantize(plan, report, augment, checkpoints)

    def _quantize(
        self,
        plan: Plan | None,
        report: Report,
        augment: Augment | None,
        checkpoints: Checkpoints | None,
    ) -> QuantizedModel:
        clock = PhaseClock(capture=self.seconds)
        shortages = Shortages(lambda line: report(Progress("memory", note=line)))
        self._check_arguments(plan)
        # Before hours of work build on them; where no code depends on images, the groups' own passes come soon enough.
        if self.recipe.reconstruct.reads_images:
            self._require_finite(shortages=shortages)
        state = QuantizerState()
        if plan is None:
            plan, state = self._plan(report, shortages, checkpoints)
        else:
            plan = check_plan(plan, self.graph.chain.units)
        clock.lap("plan")
        # Trial steps for nobody would be a waste; of several processes, which share them, one may be watched.
        if report is not ignore or distributed.count() > 1:
            with phase(report, "estimate"):
                in_a_step = try_steps(self.graph, self.images, self.recipe)
                ahead = self._estimate(self.recipe, plan, in_a_step, taken=dict(state.steps))
                report(ahead.without(*clock.laps))
        tuned = self._optimize_groups(
            self.recipe, plan, "tune", report, shortages, state, checkpoints
        )
        clock.lap("reconstruction")
        state, network = self._optimize_network(
            tuned.state, report, shortages, augment, checkpoints
        )
        clock.lap("network")
        with phase(report, "freeze"):
            program = export_frozen(self.graph.freeze(state), self.images[:2].to(self.graph.device))
        clock.lap("freeze")
        quantizers = self.graph.describe(state, tuned.distributions)
        record = Record(
            units=tuned.units,
            groups=tuned.groups,
            plan=plan.after([group.units for group in tuned.groups], tuned.joins),
            quantizers=quantizers,
            oscillation=Oscillation.at_ends(tuned.units, [group.units for group in tuned.groups]),
            network=network,
            size=model_size(quantizers, program.state_dict),
            left_in_float=self.graph.left_in_float,
            images=len(self.images),
            **self.source,
            **_input_shapes(self.images),
            seconds=clock.laps,
            environment=environment(self.graph.device),
            inputs=describe_inputs(self.graph.graph, self.images),
            shortages=tuple(shortages.told),
        )
        return QuantizedModel(program, record, self.recipe)

    def quantize_in(
        self,
        place: RunPlace,
        plan: Plan | None = None,
        *,
        progress: Report | None = None,
        augment: Augment | None = None,
    ) -> QuantizedModel:
        """Quantize as `quantize`, keep what is finished in a reserved folder, and write the finished run there.

        Args:
            place: from `runs.places.reserve`.
            plan, progress, augment: as in `mrecg.quantize`.
        """
        checkpoints = self.checkpoints(place, plan)
        found = self.quantize(plan, progress=progress, augment=augment, checkpoints=checkpoints)
        if distributed.is_first():
            found.finish(place)
        distributed.wait()
        return found

    def checkpoints(self, place: RunPlace, plan: Plan | None = None) -> Checkpoints:
        """Return what keeps the progress of this run in a folder, with the choices that a resumption needs.

        Raises:
            RunError: the unfinished run that is there was started with something else; or the model could not be saved.
        """
        self.check_storable()
        text = "" if plan is None else plan.to_json()
        # Before what makes the run one that can be resumed: a resumption needs them.
        if distributed.is_first() and not place.has_note(RECIPE):
            if plan is not None:
                place.note(PLAN, text.encode())
            place.note(RECIPE, self.recipe.to_yaml().encode())
        return place.checkpoints(
            describe_inputs(
                self.graph.graph,
                self.images,
                recipe=self.recipe.to_yaml(),
                plan=text,
                placement="\n".join(map(repr, self.graph.placed)),
                processes=str(distributed.count()),
            )
        )

    def _plan(
        self, report: Report, shortages: Shortages, checkpoints: Checkpoints | None = None
    ) -> tuple[Plan, QuantizerState]:
        """Return the recipe's plan, and the state of the shorter run without joins that the metric `loss` takes."""
        rule, units = self.recipe.plan, self.graph.chain.units
        if rule.join != "loss":
            return make_plan(units, rule), QuantizerState()
        check_image_count(len(self.images), self.recipe.reconstruct)
        found = self._optimize_groups(
            self._short_recipe(),
            single_plan(units),
            "plan",
            report,
            shortages,
            QuantizerState(),
            checkpoints,
        )
        return make_plan(units, rule, [unit.loss for unit in found.units]), found.state

    @freed_memory_kept()
    def _optimize_groups(
        self,
        recipe: Recipe,
        plan: Plan,
        phase: str,
        report: Report,
        shortages: Shortages,
        previous: QuantizerState,
        checkpoints: Checkpoints | None,
    ) -> Reconstructed:
        half = recipe.reconstruct.cache == "float16"
        storage = Storage(self.graph.device, self.memory, half, shortages)
        images = self._split()
        try:
            return optimize_groups(
                self.graph, images, recipe, plan, phase, report, storage, previous, checkpoints
            )
        except (ModelError, RecipeError):
            # Names the image, if it is one's fault.
            self._require_finite(shortages=shortages)
            raise

    def _split(self) -> SplitImages:
        return split_images(distributed.share_of_images(self.images), self.recipe)

    @freed_memory_kept()
    def _optimize_network(
        self,
        state: QuantizerState,
        report: Report,
        shortages: Shortages,
        augment: Augment | None,
        checkpoints: Checkpoints | None,
    ) -> tuple[QuantizerState, NetworkRecord | None]:
        steps = self.recipe.network_steps
        event = Progress("network", ("all units",), steps=steps)
        if steps:
            report(event)
        state, record = optimize_network(
            self.graph,
            state,
            self._split(),
            self.recipe,
            lambda step, loss: report(replace(event, step=step, loss=loss)),
            augment,
            checkpoints,
            shortages,
        )
        if record is not None:
            report(replace(event, step=steps, loss=record.divergence_after, finished=True))
        return state, record

    def _short_recipe(self) -> Recipe:
        """Return the recipe of the run that the metric `loss` takes."""
        steps = round(self.recipe.reconstruct.step_count * self.recipe.plan.loss_steps)
        return self.recipe.override({"reconstruct.steps": steps, "network.steps": 0})

    def _estimate(
        self,
        recipe: Recipe,
        plan: Plan,
        in_a_step: Mapping[str, float],
        images: int | None = None,
        taken: dict[str, int] | None = None,
    ) -> Estimate:
        given = len(self.images) // distributed.count() if images is None else images
        counts = split_counts(given, self.recipe)
        learns = recipe.reconstruct.step_count or recipe.network_steps
        probe = self.images[: _PROBED if learns else 1]
        found = estimate_run(self.graph, probe, counts, recipe, plan, in_a_step, self.memory, taken)
        phases = {"capture": self.seconds, **found.phases, "freeze": _FREEZING * self.seconds}
        return replace(found, phases=phases)


def _input_shapes(images: ModelInputs) -> dict[str, Any]:
    """Return the fields of the record about what the network takes."""
    if isinstance(images, NamedInputs):
        return {"input_shapes": shapes(images)}
    return {"input_shape": tuple(images.shape[1:])}
