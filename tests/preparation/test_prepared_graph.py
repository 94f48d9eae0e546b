"""Nothing of a prepared model changes after it was made, so that one preparation serves any number of runs."""

import pytest
import torch
from torch import Tensor, fx

import mrecg
import toys
from mrecg.optimize.all_groups import optimize_groups
from mrecg.optimize.network import optimize_network
from mrecg.preparation.judging import split_images
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.quantizers.state import QuantizerState
from mrecg.records.plan import Plan
from mrecg.runs.folder import QuantizedModel
from states import are_equal, copy_of

RECIPE = mrecg.preset(
    "w2a4-qdrop",
    {"reconstruct.steps": 4, "reconstruct.batch_size": 8, "network.steps": 2},
)
SINGLE = Plan(groups=(("stem",), ("stage.one",), ("stage.two",), ("stage.three",), ("fc",)))
JOINED = Plan(groups=(("stem",), ("stage.one", "stage.two"), ("stage.three",), ("fc",)))


def contents(prepared: PreparedGraph) -> tuple[dict[str, Tensor], list[str]]:
    """Return copies of all tensors, and every node in words."""
    modules = [prepared.graph]
    modules += [unit.quantized for unit in prepared.chain.units]
    modules += [unit.float_graph for unit in prepared.chain.units]
    tensors = {
        f"{index}.{name}": tensor.detach().clone()
        for index, module in enumerate(modules)
        for name, tensor in module.state_dict().items()
    }
    for name, quantizer in prepared.weights.items():
        tensors |= {f"{name}.{i}": one.clone() for i, one in enumerate(quantizer.calibrated)}
    for path, bias in prepared.biases.items():
        tensors[path] = bias.source.detach().clone()
    nodes = [
        f"{node.format_node()} {node.args} {node.kwargs} {sorted(node.meta)}"
        for module in modules
        for node in module.graph.nodes
    ]
    return tensors, nodes


def same(first: QuantizedModel, second: QuantizedModel) -> bool:
    states = first.program.state_dict, second.program.state_dict
    return (
        states[0].keys() == states[1].keys()
        and all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        and first.record.units == second.record.units
        and first.record.quantizers == second.record.quantizers
        and first.record.plan == second.record.plan
    )


@pytest.fixture(scope="module")
def fresh() -> dict[Plan, QuantizedModel]:
    """A run by each plan, each with a preparation of its own."""
    model, images = toys.make("residual"), toys.images(16)
    return {
        plan: mrecg.quantize(model, images, recipe=RECIPE, plan=plan) for plan in (SINGLE, JOINED)
    }


@pytest.mark.parametrize("plans", [(SINGLE, JOINED), (JOINED, SINGLE)], ids=["single", "joined"])
def test_one_preparation_serves_every_plan(
    plans: tuple[Plan, Plan], fresh: dict[Plan, QuantizedModel]
) -> None:
    """Whatever ran before, each result is that of a fresh run bit for bit, and nothing of the prepared graph changed."""
    prepared = mrecg.prepare(toys.make("residual"), toys.images(16), recipe=RECIPE)
    tensors, nodes = contents(prepared.graph)
    for plan in plans:
        prepared.estimate(plan)
        assert same(prepared.quantize(plan), fresh[plan])
    after, nodes_after = contents(prepared.graph)
    assert tensors.keys() == after.keys()
    assert all(torch.equal(tensors[name], after[name]) for name in tensors)
    assert nodes == nodes_after
    assert not same(fresh[SINGLE], fresh[JOINED])


def test_a_finished_model_shares_no_memory_with_the_prepared_one(
    fresh: dict[Plan, QuantizedModel],
) -> None:
    """Whoever changes a result must not change the next one."""
    prepared = mrecg.prepare(toys.make("residual"), toys.images(16), recipe=RECIPE)
    first = prepared.quantize(SINGLE)
    for tensor in first.program.state_dict.values():
        tensor.zero_()
    assert same(prepared.quantize(SINGLE), fresh[SINGLE])


def test_nothing_learns_in_the_network_without_a_copy() -> None:
    """The state that the network starts from stays, so that a roll-back is to take it."""
    recipe = RECIPE.override({"reconstruct.steps": 20})
    prepared = mrecg.prepare(toys.make("residual"), toys.images(16), recipe=recipe)
    state = _nearest(prepared)
    before = copy_of(state)
    found, record = optimize_network(
        prepared.graph,
        state,
        split_images(prepared.images, recipe),
        recipe,
        lambda step, loss: None,
    )
    assert record is not None
    assert are_equal(state, before)
    assert are_equal(found, state) != record.accepted
    assert isinstance(prepared.graph.freeze(found), fx.GraphModule)
    assert are_equal(state, before)


def _nearest(prepared: mrecg.PreparedModel) -> QuantizerState:
    recipe = prepared.recipe.override({"reconstruct.steps": 0})
    images = split_images(prepared.images, recipe)
    return optimize_groups(prepared.graph, images, recipe, SINGLE, "tune", lambda event: None).state


def test_behind_quantizers_the_scale_of_the_images_is_not_learned() -> None:
    """At any width; cut before quantizers, it is learned below 8 bits. All other scales are, each in one unit."""
    low = {"placement.first_last": "same"}
    learned = {}
    for cut in ("before-quantizers", "behind-quantizers"):
        recipe = mrecg.preset("w2a4-qdrop", low | {"plan.cut": cut})
        graph = mrecg.prepare(toys.make("residual"), toys.images(), recipe=recipe).graph
        learned[cut] = [
            name for unit in graph.chain.units for name in graph.learned_activations([unit])
        ]
        names = {one.name for one in graph.placed if not one.is_weight}
        assert len(learned[cut]) == len(set(learned[cut]))
        images = {one.name for one in graph.placed if one.tensor in graph.chain.inputs}
        assert len(images) == 1
        assert set(learned[cut]) == (names if cut == "before-quantizers" else names - images)


def test_a_run_cut_behind_quantizers_passes_quantized_values_on() -> None:
    """The loss of every unit but the last is measured behind its quantizer, and the frozen model is what was measured."""
    changes = {
        "reconstruct.steps": 4,
        "reconstruct.batch_size": 4,
        "network.steps": 0,
        "plan.cut": "behind-quantizers",
    }
    model, x = toys.make("residual"), toys.images(16)
    recipe = mrecg.preset("w4a2-qdrop", changes)
    prepared = mrecg.prepare(model, x, recipe=recipe)
    found = prepared.quantize(SINGLE)
    with torch.no_grad():
        error = (found.model(x) - model(x)).square().sum(1).mean()
    assert found.record.units[-1].loss == pytest.approx(float(error), rel=1e-3)
    assert [unit.shape for unit in found.record.units][-2:] == [(6,), (5,)]
    assert found.record.units[-2].loss > 0
