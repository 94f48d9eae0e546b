"""The cells of the paper's table: settings, joins and numbers as the authors publish them."""

from pathlib import Path

import pytest
import torch
import yaml

from configuration_files import settings
from mrecg.config.presets import Schedule, preset
from mrecg.paper.mqbench import read_experiment
from mrecg.paper.networks import NETWORKS, build
from mrecg.paper.published import (
    PAPER_NETWORKS,
    published_float_top1,
    published_joins,
    published_top1,
)
from mrecg.paper.reproduction import (
    TABLE_BITS,
    TABLE_METHODS,
    Budget,
    Cell,
    TableAxes,
    cells,
)
from mrecg.pipeline import prepare

JOINED = {
    "resnet18": ["layer1.1 layer2.0", "layer2.1 layer3.0"],
    "resnet50": ["layer1.2 layer2.0", "layer2.3 layer3.0 layer3.1", "layer3.5 layer4.0"],
    "regnetx_600m": ["s2.b3 s3.b1 s3.b2", "s3.b5 s4.b1", "s4.b6 s4.b7"],
}


def test_the_whole_table() -> None:
    found = cells(TableAxes())
    assert (
        len(found) == len(set(found)) == len(PAPER_NETWORKS) * len(TABLE_BITS) * len(TABLE_METHODS)
    )
    assert set(PAPER_NETWORKS) <= set(NETWORKS)
    assert published_float_top1("resnet50") == 76.63
    assert published_float_top1("mobilenetv2_035") == 60.08
    assert published_float_top1("regnetx_600m") == 73.52
    assert published_float_top1("resnet101") is None
    assert published_top1("resnet18", "w2a4", "qdrop-mrecg") == 66.18
    assert published_top1("resnet18", "w2a4", "qdrop-scheme") == 66.18
    assert published_top1("mobilenetv2_050", "w3a3", "brecq-mrecg") == 35.11
    assert published_top1("regnetx_600m", "w2a2", "qdrop") == 39.13
    assert published_top1("mobilenetv2_050", "w2a2", "qdrop") is None
    assert published_top1("regnetx_600m", "w4a4", "brecq-mrecg") is None


def test_cells_carry_the_settings_of_the_paper() -> None:
    small = Cell("mobilenetv2_050", "w2a4", "qdrop-mrecg", "paper", 7).recipe({})
    assert small.reconstruct.penalty == 0.1
    assert small.reconstruct.steps == 20000
    assert small.reconstruct.batch_size == 256
    assert small.plan.join == "loss"
    assert small.seed == 7
    large = Cell("resnet50", "w2a2", "brecq-scheme", "paper", 1005).recipe(
        {"reconstruct.steps": 10}
    )
    assert large.reconstruct.batch_size == 128
    assert large.reconstruct.steps == 10
    assert large.reconstruct.keep_quantized_probability == 1
    assert large.plan.join == "scheme"
    assert PAPER_NETWORKS["resnet50"].images == 2048
    for recipe in (small, large):
        assert recipe.plan.cut == "behind-quantizers"
        assert recipe.reconstruct.penalty_at == "end"
        assert recipe.activation.ranges.running_mean == 0.9
    fast = Cell("resnet50", "w2a2", "brecq-scheme", "fast", 7).recipe({})
    wanted = {"plan.join": "scheme", "plan.scheme": large.plan.scheme, "seed": 7}
    assert fast == preset("w2a2-brecq", wanted)


@pytest.mark.parametrize(
    ("network", "method", "schedule", "groups"),
    [
        ("mobilenetv2_100", "brecq", "paper", 18),
        ("mobilenetv2_035", "qdrop", "paper", 18),
        ("mobilenetv2_100", "brecq-scheme", "paper", 11),
        ("mobilenetv2_100", "brecq", "fast", None),
        ("mobilenetv2_100", "adaround", "paper", None),
        ("resnet18", "brecq", "paper", None),
    ],
)
def test_cells_without_joins_have_the_units_of_the_authors(
    network: str, method: str, schedule: Schedule, groups: int | None
) -> None:
    plan = Cell(network, "w2a4", method, schedule, 1).recipe({}).plan
    assert (plan.join == "scheme", len(plan.scheme)) == (groups is not None, groups or 0)


@pytest.mark.parametrize("cell", cells(TableAxes()), ids=lambda cell: cell.name)
def test_every_cell_is_the_authors_configuration(cell: Cell, tmp_path: Path) -> None:
    """Their files have 2-bit weights and 4-bit activations, "you can change the bit width"; none computes a plan."""
    method = cell.method.removesuffix("-mrecg")
    model, _, percent = (
        cell.network.partition("_") if "mobilenet" in cell.network else (cell.network, "", "")
    )
    content = settings("mobilenet_v2" if percent else model, 1.0 if "brecq" in method else 0.5)
    if percent:
        content["model"]["kwargs"]["width_mult"] = int(percent) / 100
    weight_bits, activation_bits = int(cell.bits[1]), int(cell.bits[3])
    quantizers = content["extra_prepare_dict"]["extra_qconfig_dict"]
    quantizers["w_qscheme"]["bit"], quantizers["a_qscheme"]["bit"] = weight_bits, activation_bits
    if not method.endswith("-scheme"):
        del content["quantize"]["reconstruction"]["scheme"]
    (tmp_path / "authors.yaml").write_text(yaml.safe_dump(content))
    theirs = read_experiment(tmp_path / "authors.yaml")
    automatic = {"plan.join": "loss", "plan.scheme": []} if cell.method.endswith("-mrecg") else {}
    ours = cell.recipe({})
    assert not ours.differences(theirs.recipe.override({"name": ours.name, **automatic}))
    assert theirs.network == cell.network
    assert theirs.images == Budget().images_for(cell.network)


@pytest.mark.parametrize("network", ["resnet18", "resnet50", "mobilenetv2_035", "regnetx_600m"])
def test_the_published_schemes_fit_our_units(network: str) -> None:
    images = torch.zeros(2, 3, 64, 64)
    recipe = preset("w4a4-brecq", {"weight.ranges.method": "minmax"})  # needs no search
    found = prepare(build(network), images, recipe=recipe).plan()
    names = [unit for group in found.groups for unit in group]
    joined = published_joins(network, names)
    assert joined is not None
    groups: list[list[str]] = []
    for position, name in enumerate(names):
        if position - 1 in joined:
            groups[-1].append(name)
        else:
            groups.append([name])
    ours = [" ".join(group) for group in groups if len(group) > 1]
    if network.startswith("mobilenetv2"):
        blocks = [[int(n.split(".")[1]) for n in group.split() if "." in n] for group in ours]
        assert blocks[1:-1] == [[3, 4], [6, 7], [9, 10, 11], [12, 13, 14], [16, 17]]
        assert (groups[0][1], groups[-1][0]) == (
            names[1],
            names[-2],
        )  # their ends hold two of our units
    else:
        assert ours == JOINED[network]
    assert published_joins(network, names[1:]) is None
