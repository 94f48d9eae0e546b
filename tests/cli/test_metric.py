"""`mrecg evaluate --metric`: a function of the caller's, or a class as torchmetrics has."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import Finished, small_network

METRICS = """
def share(outputs, labels):
    return {"share": float((outputs.argmax(1) == labels).float().mean()), "one": 1}

def one(outputs, labels):
    return 1

class Count:
    count = 0
    def update(self, outputs, labels):
        self.count += len(labels)
    def compute(self):
        return self.count
"""


@pytest.fixture
def run(tmp_path: Path, mrecg_command: Callable[..., Finished]) -> Path:
    (tmp_path / "own_metrics.py").write_text(METRICS)
    network = ("--network", small_network(tmp_path, channels=1), "--data", "demo")
    short = ("--images", "16", "--evaluation-images", "0", "--preset", "w4a4-rtn")
    done = mrecg_command("quantize", *network, *short, "--output", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


def test_metrics_by_name(run: Path, mrecg_command: Callable[..., Finished]) -> None:
    command = ("evaluate", str(run), "--data", "demo", "--evaluation-images", "50")
    counted = json.loads(mrecg_command(*command, "--json").stdout)
    found = json.loads(mrecg_command(*command, "--metric", "own_metrics:share").stdout)
    assert found == pytest.approx({"share": counted["correct1"] / 50, "one": 1.0})
    for name, value in (("one", 1.0), ("Count", 50.0)):
        done = mrecg_command(*command, "--metric", f"own_metrics:{name}", "--json")
        assert json.loads(done.stdout) == {f"own_metrics:{name}": value}
    for name in ("own_metrics:nothing", "nothing:f", "own_metrics"):
        done = mrecg_command(*command, "--metric", name)
        assert done.returncode == 1
        assert f"The metric '{name}' cannot be made" in done.stderr
        assert "give package:function" in " ".join(done.stderr.split())
