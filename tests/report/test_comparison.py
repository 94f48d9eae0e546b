"""Runs side by side: seeds together, paired where they can be, and compared at the same places."""

import math

import pytest

import reported
from mrecg.errors import RunError
from mrecg.report.comparison import Mean, compare_runs
from mrecg.report.comparison_page import comparison_as_text, comparison_chapter
from mrecg.report.reported_run import ReportedRun


def with_wrong(name: str, wrong: int, **found: object) -> ReportedRun:
    """A run of 200 images of which so many are wrong."""
    accuracy = {
        "float": reported.accuracy(200, set(range(9))),
        "quantized": reported.accuracy(200, set(range(wrong))),
    }
    return reported.run(name, accuracy=accuracy, **found)


def test_runs_that_differ_only_in_their_seeds_are_one_group() -> None:
    runs = [
        with_wrong("a1", 20, seed=1),
        with_wrong("b1", 10, seed=1, bits=4),
        with_wrong("a2", 24, seed=2),
        with_wrong("b2", 12, seed=2, bits=4),
        with_wrong("few", 20, seed=1, images=32),
    ]
    found = compare_runs(runs)
    assert [[run.name for run in group.runs] for group in found.groups] == [
        ["a1", "a2"],
        ["b1", "b2"],
        ["few"],
    ]
    first, second, _ = found.groups
    assert first.top1 == Mean(89.0, 1.0)
    assert (first.label, second.label) == (
        "w2a4-qdrop-mrecg (2 seeds), from a1",
        "w2a4-qdrop-mrecg (2 seeds), from b1",
    )
    settings = dict(found.settings)
    assert settings["weight.bits"] == ("2", "4", "2")
    assert settings["calibration images"] == ("64", "64", "32")
    assert "seed" not in settings


def test_groups_are_compared_seed_by_seed() -> None:
    runs = [with_wrong(f"a{seed}", 20 + 6 * seed, seed=seed) for seed in (1, 2, 3)]
    runs += [with_wrong(f"b{seed}", 10 + 6 * seed, seed=seed, bits=4) for seed in (3, 2, 1, 4)]
    found = compare_runs(runs)
    difference = found.difference(found.groups[1])
    assert difference is not None
    assert difference.source == "seeds"
    assert difference.points == 5.0  # in every seed, so that there is no error at all
    assert difference.standard_error == 0
    said = comparison_as_text(found)
    assert (
        "+5.00 ± 0.00 points (95 % from +5.00 to +5.00, mean ± standard error, seed by seed)"
        in said
    )
    assert "is more accurate than" in said


def test_two_runs_are_compared_image_by_image() -> None:
    found = compare_runs([with_wrong("a", 20), with_wrong("b", 10, bits=4)])
    difference = found.difference(found.groups[1])
    assert difference is not None
    assert difference.source == "answers"
    assert "b is more accurate than a: +5.00 points" in comparison_as_text(found)


def test_losses_are_compared_where_groups_of_all_end() -> None:
    whole = reported.record()
    names = [unit.name for unit in whole.units]
    single = tuple(
        group.model_copy(update={"units": (name,)})
        for group, name in zip([whole.groups[0]] * 5, names, strict=True)
    )
    units = tuple(
        unit.model_copy(update={"group": place}) for place, unit in enumerate(whole.units)
    )
    plan = whole.plan.model_copy(update={"groups": tuple((name,) for name in names)})
    blocks = reported.run("blocks", units=units, groups=single, plan=plan, bits=3)
    found = compare_runs([blocks, reported.run("joined")])
    assert found.ends == (names[0], *names[2:])
    assert found.groups[0].losses(found.ends) == [
        [unit.relative_loss for unit in whole.units if unit.name != names[1]]
    ]


def test_networks_that_are_not_the_same_have_no_common_losses() -> None:
    found = compare_runs([reported.run("a"), reported.run("b", count=7)])
    assert found.ends == ()
    sections = comparison_chapter(found).sections
    assert "their units are not the same" in sections[1].answer
    assert found.as_data()["groups"][0]["largest_loss"] is None


def test_what_is_not_known_stays_unknown() -> None:
    runs = [reported.bare(reported.run("a")), reported.bare(reported.run("b", bits=4))]
    found = compare_runs(runs)
    assert found.difference(found.groups[1]) is None
    assert found.groups[0].top1 is None
    assert "How b differs from a is not known" in comparison_as_text(found)


def test_only_seeds_differ() -> None:
    found = compare_runs([with_wrong(f"a{seed}", 20, seed=seed) for seed in (1, 2)])
    assert len(found.groups) == 1
    said = comparison_as_text(found)
    assert "All runs differ in their seeds only: top-1 is 90.00 ± 0.00 %" in said
    assert "Nothing but the seeds" in said


def test_means() -> None:
    assert Mean.of([]) is None
    assert Mean.of([3.0]) == Mean(3.0, None)
    found = Mean.of([1.0, 2.0, 4.0])
    assert found is not None
    assert found.value == pytest.approx(7 / 3)
    assert found.error == pytest.approx(math.sqrt(7 / 3 / 3))


def test_comparisons_that_cannot_be_made() -> None:
    one = reported.run("a")
    with pytest.raises(RunError, match="needs at least two runs, got 1; name another one"):
        compare_runs([one])
    with pytest.raises(RunError, match="The run a is given twice"):
        compare_runs([one, reported.run("b"), one])
