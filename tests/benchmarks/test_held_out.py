"""Comparisons on held-out training images, in short."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.held_out import __main__ as command_line
from benchmarks.held_out import measure as measuring
from benchmarks.held_out import trials
from benchmarks.held_out.__main__ import main
from benchmarks.held_out.measure import recipe_of
from benchmarks.held_out.render import judges_rows, variant_rows
from benchmarks.held_out.results import held_out_store, judges_store
from benchmarks.held_out.variants import GROUPS, JOINS, VARIANTS
from mrecg.optimize import network
from mrecg.optimize.adam import Adam

CELL = ["--networks", "resnet18_small", "--seeds", "3", "--steps", "2", "--images", "32"]


def test_every_variant_is_a_recipe() -> None:
    """Each of its table differs from all others, by more than its name."""
    for variants in GROUPS.values():
        differs_in_recipe = [
            name for name, one in variants.items() if not (one.trial or one.generated)
        ]
        recipes = [recipe_of("mbv2s", "w2a2", name, 100, 7) for name in differs_in_recipe]
        assert {recipe.seed for recipe in recipes} == {7}
        assert {recipe.reconstruct.penalty for recipe in recipes} == {0.1}
        assert len({recipe.to_yaml() for recipe in recipes}) == len(recipes)
    assert recipe_of("mbv2s", "w2a2", "blocks-175", 100, 7).reconstruct.steps == 175
    assert sum(map(len, GROUPS.values())) == len(VARIANTS)  # no name stands for two


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


def test_trials_change_what_is_learned_and_leave_nothing_behind(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        command_line,
        "recipe_of",
        lambda *given: recipe_of(*given).override({"network.steps": 6}),
    )
    command = ["--results", str(tmp_path), "--threads", "1", "measure", "--variants"]
    main([*command, "codes", "averaged", "dropped", *CELL, "--data", str(data)])
    # Whether it is accepted or not.
    found = {one["stage"]["divergence_after"] for one in held_out_store(tmp_path).read()}
    assert len(found) == 3
    assert network.Adam is Adam


def test_latents_are_pulled_towards_their_codes() -> None:
    latent, scale = nn.Parameter(torch.tensor([1.4, -0.3])), nn.Parameter(torch.ones(1))
    with trials.trial("pulled"):
        adam = network.Adam([latent], [scale])
    for one in (latent, scale):
        one.grad = torch.zeros_like(one)
    adam.step(0.02, 0.001)
    kept = 1 - 0.02 * trials.PULL
    torch.testing.assert_close(latent.detach(), torch.tensor([1 + 0.4 * kept, -0.3 * kept]))
    assert scale == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_generated_images_have_the_statistics_of_the_batch_norms(channels: int) -> None:
    """A batch norm directly behind the images: their means and deviations become its own."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.running_mean.copy_(torch.linspace(0.5, 1.0, channels))
        norm.running_var.fill_(4.0)
    images = trials.generated_images(nn.Sequential(norm), (channels, 6, 6))
    assert len(images) == trials.GENERATED
    assert images.mean((0, 2, 3)) == pytest.approx(norm.running_mean, abs=0.05)
    assert images.std((0, 2, 3)) == pytest.approx(norm.running_var.sqrt(), abs=0.05)


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
