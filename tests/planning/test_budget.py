"""The automatic budget: fewer steps, of fewer images, where images are large."""

import pytest
import torch

import mrecg
import toys
from mrecg.graph.inputs import NamedInputs
from mrecg.planning.budget import fit_budget, fit_record, positions_of


@pytest.mark.parametrize(
    ("side", "steps", "images"),
    [(28, 500, 32), (64, 500, 32), (96, 333, 14), (128, 250, 8), (224, 143, 8), (640, 125, 8)],
)
def test_large_images_get_fewer_steps_of_fewer_images(side: int, steps: int, images: int) -> None:
    found = fit_budget(mrecg.preset("w4a4-qdrop"), side**2).reconstruct
    assert (found.steps, found.batch_size) == (steps, images)


@pytest.mark.parametrize(("side", "precision"), [(64, "float32"), (65, "fastest")])
def test_the_processor_decides_for_large_images_alone(side: int, precision: str) -> None:
    for given, expected in ((None, precision), ("bfloat16", "bfloat16")):
        settings = {} if given is None else {"reconstruct.precision": given}
        found = fit_budget(mrecg.preset("w4a4-qdrop", settings), side**2)
        assert found.reconstruct.precision == expected


def test_weights_of_few_bits_get_all_steps() -> None:
    found = fit_budget(mrecg.preset("w2a4-qdrop"), 224**2).reconstruct
    assert (found.steps, found.batch_size) == (500, 8)


def test_numbers_that_are_given_stay() -> None:
    given = mrecg.preset("w4a4-qdrop", {"reconstruct.steps": 7})
    found = fit_budget(given, 224**2).reconstruct
    assert (found.steps, found.batch_size) == (7, 8)
    papers = mrecg.preset("w4a4-qdrop", schedule="paper")
    assert fit_budget(papers, 224**2) == papers
    nearest = mrecg.preset("w4a4-rtn")
    assert fit_budget(nearest, 224**2).reconstruct.steps == 0


def test_the_largest_input_counts() -> None:
    named = NamedInputs({"image": torch.zeros(2, 3, 96, 40), "point": torch.zeros(2, 5)})
    assert positions_of(named) == 96 * 40
    assert positions_of(torch.zeros(2, 1, 16_000)) == 16_000
    assert positions_of(torch.zeros(2, 7)) == 1


def test_a_run_names_the_numbers_that_it_used() -> None:
    settings = {"network.steps": 0, "plan.join": "none"}
    recipe = mrecg.preset("w8a8-rtn", settings)
    found = mrecg.prepare(toys.make("residual"), toys.images(32), recipe=recipe).recipe
    assert (found.reconstruct.steps, found.reconstruct.batch_size) == (0, 32)
    found_again = fit_record(
        recipe, mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe).record
    )
    assert found_again == found


def test_harm_is_measured_after_a_tenth_of_the_steps() -> None:
    recipe = mrecg.preset("w4a8-brecq", {"reconstruct.steps": 20, "reconstruct.batch_size": 4})
    model, images = toys.make("chain"), toys.images(8)
    for after, taken in ((None, 2), (0, 0)):
        found = mrecg.sensitivity(model, images, recipe, weight_bits=(4,), after=after)
        assert found.after == taken
