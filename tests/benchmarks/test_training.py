"""The small float networks: how they are trained, and what their checkpoints reach."""

import json
from pathlib import Path

import pytest

import mrecg.paper.networks
from benchmarks.checkpoints import FOLDER, OUR_NETWORKS
from benchmarks.checkpoints.__main__ import main
from mrecg.data import DEMO_FOLDER, evaluation_batches


def test_training_learns_and_stores_what_it_measured(tmp_path: Path) -> None:
    arguments = ["--network", "regnetx_small", "--data", str(DEMO_FOLDER), "--epochs", "4"]
    main([*arguments, "--batch-size", "32", "--output", str(tmp_path)])
    result = json.loads((tmp_path / "regnetx_small.json").read_text())
    model = mrecg.paper.networks.build("regnetx_small")
    mrecg.paper.networks.load_weights(model, tmp_path / "regnetx_small.safetensors")
    assert result["test_top1"] == mrecg.evaluate(model, evaluation_batches("demo")).top1
    assert result["test_top1"] > 25  # of ten classes, where guessing gives 10


@pytest.mark.parametrize("network", OUR_NETWORKS)
def test_float_checkpoints_are_normally_accurate(network: str) -> None:
    assert json.loads((FOLDER / f"{network}.json").read_text())["test_top1"] > 91.5
    model = mrecg.paper.networks.build(network)
    mrecg.paper.networks.load_weights(model, FOLDER / f"{network}.safetensors")
    assert mrecg.evaluate(model, evaluation_batches("demo")).top1 > 90.5
