"""The architectures benchmark in short."""

import multiprocessing
from pathlib import Path
from types import ModuleType

import pytest
import torch

import mrecg
import toys
from benchmarks.architectures.__main__ import main
from benchmarks.architectures.examine import examine
from benchmarks.architectures.render import coverage_table


def test_a_model_is_taken_as_far_as_it_goes(timm: ModuleType) -> None:
    recipe = mrecg.preset("w4a8-rtn").for_backend("onnxruntime")
    images = torch.randn(4, 3, 64, 64)
    torch.manual_seed(0)
    found = examine(lambda: timm.create_model("test_efficientnet").eval(), images, recipe)
    assert found.verified, found.problem
    assert (found.units, found.layers, found.left_in_float) == (8, 18, ())
    images = torch.randn(4, 2, 8, 8)
    failed = examine(toys.BranchOnData, images, recipe)
    assert (failed.captured, failed.units, failed.verified) == (False, 0, False)
    assert failed.problem is not None
    rest = {"family": "toy", "shape": images.shape}
    rows = coverage_table(
        [{"network": n, **rest, **vars(f)} for n, f in (("a", found), ("b", failed))]
    )
    assert "| toy | a | 2×8×8 | ✓ | 8 | 18 | 0 | ✓ | ✓ | ✓ | ✓ |" in rows[2]
    assert "| toy | b | 2×8×8 | ✗ | 0 | 0 | 0 | ✗ | ✗ | ✗ | ✗ |" in rows[3]


ENDINGS = """
import faulthandler, os, signal, time
from torch import nn

class CrashesWhenRun(nn.Module):
    def forward(self, x):
        faulthandler.disable()  # of pytest
        os.kill(os.getpid(), signal.SIGSEGV)

def works(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 4))
def exits(): os._exit(3)
def sleeps(): time.sleep(600)
def unbuildable(): raise ValueError("no such thing")
"""


def test_a_crash_ends_one_model_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "endings.py").write_text(ENDINGS)
    monkeypatch.syspath_prepend(tmp_path)
    results = ["--results", str(tmp_path / "results")]
    names = [f"endings:{name}" for name in ("CrashesWhenRun", "exits", "unbuildable")]
    settings = ["--preset", "w4a8-rtn", "--images", "4"]
    with monkeypatch.context() as forked:
        # A process that begins as a copy of this one need not import torch.
        context = multiprocessing.get_context("fork")
        forked.setattr(multiprocessing, "get_context", lambda _: context)
        main([*results, "measure", *names, *settings])
        assert capsys.readouterr().out.splitlines() == [
            "endings:CrashesWhenRun: the process ended with SIGSEGV",
            "endings:exits: the process ended with exit code 3",
            "endings:unbuildable: The network endings:unbuildable cannot be built: ValueError: no such thing.",
        ]
        main([*results, "measure", "endings:sleeps", *names, *settings, "--limit", "1"])
        # The others are skipped.
        assert capsys.readouterr().out == "endings:sleeps: stopped after 1 s\n"
    main([*results, "measure", *names, "endings:works@32", *settings])
    assert capsys.readouterr().out == "endings:works: verified\n"
    main([*results, "render", "--docs", str(tmp_path)])
    assert "verified 1 of 5 (20.0 %)" in (tmp_path / "limits.md").read_text()
