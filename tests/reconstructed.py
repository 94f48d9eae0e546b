"""Groups of a toy, reconstructed."""

import mrecg
import toys
from mrecg.cache.storage import Storage
from mrecg.optimize import all_groups
from mrecg.planning.joint_plan import single_plan
from mrecg.preparation.judging import split_images
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.quantizers.state import QuantizerState
from mrecg.records.plan import Plan
from mrecg.records.record import GroupRecord

JOINED = Plan(groups=(("stem",), ("stage.one",), ("stage.two", "stage.three"), ("fc",)))


def optimize(
    prepared: PreparedGraph,
    recipe: mrecg.Recipe,
    plan: Plan | None = None,
    previous: QuantizerState | None = None,
    storage: Storage | None = None,
) -> tuple[QuantizerState, tuple[GroupRecord, ...]]:
    """Reconstruct group by group on the toys' images; by default every unit alone."""
    plan = plan or single_plan(prepared.chain.units)
    images = split_images(toys.images(32), recipe)
    found = all_groups.optimize_groups(
        prepared, images, recipe, plan, "tune", lambda event: None, storage, previous
    )
    return found.state, found.groups
