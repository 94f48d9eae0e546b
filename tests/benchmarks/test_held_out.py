"""Comparisons on held-out training images, in short."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.held_out import measure as measuring
from benchmarks.held_out.__main__ import main
from benchmarks.held_out.measure import recipe_of
from benchmarks.held_out.render import judges_rows, variant_rows
from benchmarks.held_out.results import held_out_store, judges_store
from benchmarks.held_out.variants import CODES, GROUPS, JOINS, VARIANTS

CELL = ["--networks", "resnet18_small", "--seeds", "3", "--steps", "2", "--images", "32"]


def test_every_variant_is_a_recipe() -> None:
    """Each of its table differs from all others, by more than its name."""
    for variants in (JOINS, CODES):
        recipes = [recipe_of("mbv2s", "w2a2", name, 100, 7) for name in variants]
        assert {recipe.seed for recipe in recipes} == {7}
        assert {recipe.reconstruct.penalty for recipe in recipes} == {0.1}
        assert len({recipe.to_yaml() for recipe in recipes}) == len(recipes)
    assert recipe_of("mbv2s", "w2a2", "blocks-175", 100, 7).reconstruct.steps == 175
    assert len(JOINS) + len(CODES) == len(VARIANTS)  # no name stands for two


def test_variants_are_measured_once(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--results", str(tmp_path), "--threads", "1", "measure", "--variants"]
    for _ in range(2):
        main([*command, "blocks", "gain", *CELL, "--data", str(data)])
    assert len(capsys.readouterr().out.splitlines()) == 2
    blocks, gain = held_out_store(tmp_path).read()
    assert (blocks["variant"], gain["variant"]) == ("blocks", "gain")
    assert blocks["joins"] == []
    assert gain["joins"]
    for result in (blocks, gain):
        assert result["divergence"] > 0
        assert result["recipe"]["network"]["steps"] == 0
        assert result["commit"]
    main(["--results", str(tmp_path), "render", "--docs", str(tmp_path)])
    page = (tmp_path / "choices.md").read_text()
    assert "every neighbor is tried" in page


def test_images_that_judge_are_compared_on_the_same_joins(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each set of images gives each join a gain of its own."""
    monkeypatch.setattr(measuring, "HELD_OUT", 40)
    monkeypatch.setattr(measuring, "SLICE", 8)
    main(["--results", str(tmp_path), "judges", *CELL, "--data", str(data)])
    (result,) = judges_store(tmp_path).read()
    assert result["joins"]
    for join in result["joins"]:
        assert len(join["units"]) > 1
        gains = [join[name] for name in ("mirrored", "slice", "tuned", "truth")]
        assert len(set(gains)) == len(gains)
        assert all(-10 < gain < 1 for gain in gains)


def test_the_table_of_judges_counts_wrong_signs() -> None:
    joins = [
        {"mirrored": 0.1, "slice": -0.1, "tuned": 0.3, "truth": 0.2},
        {"mirrored": 0.1, "slice": -0.1, "tuned": 0.1, "truth": -0.1},
    ]
    rows = judges_rows([{"joins": joins}])
    assert [row[:2] for row in rows] == [
        ("mirrored", "1 of 2"),
        ("slice", "1 of 2"),
        ("tuned", "1 of 2"),
    ]
    assert [row[2:] for row in rows] == [("15.0", "+5.0"), ("15.0", "-15.0"), ("15.0", "+15.0")]


def test_the_table_compares_seed_by_seed() -> None:
    """The standard error is that of the differences."""

    def cell(variant: str, seed: int, divergence: float, loss: float) -> dict[str, Any]:
        return {
            "network": "mine",
            "bits": "w2a2",
            "steps": 1,
            "images": 8,
            "variant": variant,
            "seed": seed,
            "divergence": divergence,
            "agreement": 50.0,
            "joins": [{"kept": True}, {"kept": False}] if variant == "gain" else [],
            "joined": [["a", "b"]] if variant == "gain" else [],
            "losses": {"a": 0.9, "b": loss},
            "seconds": {"all": 2.0},
        }

    cells = [cell("blocks", 1, 0.4, 0.5), cell("blocks", 2, 0.6, 0.7)]
    cells += [cell("gain", 1, 0.3, 0.3), cell("gain", 2, 0.4, 0.5)]
    blocks, gain = variant_rows(cells, JOINS, joins=True)
    assert blocks[5:] == ("0.5000 (2)", "", "50.00", "", "", "2")
    assert gain[5:] == ("0.3500 (2)", "+0.1500 ± 0.0500", "50.00", "60.0 % → 40.0 %", "2 of 4", "2")


def test_no_group_of_variants_has_the_name_of_one() -> None:
    """On the command line, either may be named."""
    assert not set(GROUPS) & set(VARIANTS)
