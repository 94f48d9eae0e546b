"""Configuration files of the QDrop repository: every key is mapped or listed with a reason."""

from pathlib import Path
from typing import Any

import pytest

from configuration_files import leaves, qdrop_settings, read
from mrecg.config.presets import preset
from mrecg.config.yaml_files import flat
from mrecg.errors import RecipeError


def test_the_files_of_qdrop_resolve(tmp_path: Path) -> None:
    content = qdrop_settings()
    found = read(tmp_path, content)
    noted = [note.key for note in (*found.mapped, *found.ignored)]
    assert sorted(noted) == sorted(leaves(content))
    assert {note.key for note in found.ignored} == {
        "quant.recon.keep_gpu",
        "data.batch_size",
        "data.pin_memory",
    }
    changes = {
        "name": "experiment",
        "activation.ranges.running_mean": None,
        "reconstruct.batch_size": 32,
        "reconstruct.batches": "reshuffled",
    }
    assert found.recipe == preset("w2a4-qdrop", changes, "paper")
    assert (found.images, found.network) == (1024, "resnet18")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("a_qconfig.quantizer", "FixedFakeQuantize", {"reconstruct.activation_rate": 0.0}),
        ("a_qconfig.observer", "AvgMinMaxObserver", {"activation.ranges.method": "minmax"}),
        ("w_qconfig.ch_axis", -1, {"placement.per_channel_weights": False}),
        ("w_qconfig.symmetric", True, {"weight.symmetric": True}),
        ("recon", None, {"reconstruct.steps": 0}),
    ],
)
def test_keys_of_qdrop(key: str, value: Any, wanted: dict[str, Any], tmp_path: Path) -> None:
    content = qdrop_settings()
    *parents, last = ("quant." + key).split(".")
    inner = content
    for parent in parents:
        inner = inner[parent]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    dumped = dict(flat(read(tmp_path, content).recipe.model_dump()))
    assert {name: dumped[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("w_qconfig.ch_axis", 1, r"expected 0 \(a range per output channel\) or -1, got 1"),
        ("a_qconfig.ch_axis", 0, "one range per tensor"),
        ("a_qconfig.observer", "MSEObserve", "did you mean 'MSEObserver'"),
        ("calibrate", "all", "whole number"),
        ("w_qconfig.quantizer", "FixedFakeQuantize", "expected AdaRoundFakeQuantize .or no recon"),
    ],
)
def test_mistakes_in_files_of_qdrop(key: str, value: Any, message: str, tmp_path: Path) -> None:
    content = qdrop_settings()
    *parents, last = key.split(".")
    inner = content["quant"]
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    with pytest.raises(RecipeError, match=message):
        read(tmp_path, content)
