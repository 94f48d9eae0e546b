"""`mrecg reproduce` on a cluster: its table and its runs are the serial ones."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from command_line import Finished as Done
from mrecg.paper.networks import build
from mrecg.sweep import engines
from mrecg.sweep.engines import Finished, RayCluster, Work, run_in_series
from pictures import imagenet


def test_the_table_is_the_serial_one(
    tmp_path: Path, mrecg_command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells are sent as bytes and come back in another order; the last one's process is lost."""

    def sent(self: RayCluster, work: Sequence[Work[object]]) -> Iterator[Finished[object]]:
        *others, last = pickle.loads(pickle.dumps(list(work)))
        yield Finished(last.name, None, "The worker died.")
        yield from run_in_series(others[::-1])

    monkeypatch.setattr(engines.RayCluster, "run", sent)
    imagenet(tmp_path / "imagenet", classes=10, images=4)
    (tmp_path / "models").mkdir()
    torch.save(build("resnet18").state_dict(), tmp_path / "models" / "resnet18_imagenet.pth.tar")
    arguments = (
        *("reproduce", "--networks", "resnet18", "--methods", "rtn", "--bits", "w4a4"),
        *(
            "--set",
            "weight.ranges.method=minmax",
            "--seeds",
            "1,2",
            "--images",
            "8",
            "--size",
            "32",
            "--evaluation-images",
            "8",
        ),
        *("--data", "imagenet:imagenet", "--checkpoints", "models", "--workers", "0"),
    )
    script = mrecg_command(*arguments, "--output", "serial", "--slurm")
    assert "#SBATCH --array=1-2\n" in script.stdout
    serial = mrecg_command(*arguments, "--output", "serial")
    assert serial.returncode == 0, serial.stderr
    lost = mrecg_command(*arguments, "--output", "cluster", "--ray", "auto")
    assert lost.returncode == 1
    assert "resnet18-w4a4-rtn-paper-seed2: failed: The worker died." in lost.stderr
    assert "1 of 2 cells failed: resnet18-w4a4-rtn-paper-seed2" in lost.stderr
    assert "1 failed" in Path("cluster/table.md").read_text()
    assert mrecg_command(*arguments, "--output", "cluster", "--cell", "2").returncode == 0
    whole = mrecg_command(*arguments, "--output", "cluster")
    assert whole.stdout == serial.stdout
    assert Path("cluster/table.md").read_text() == Path("serial/table.md").read_text()
    for folder in Path("serial").glob("resnet18-*"):
        for name in ("model.safetensors", "graph.json"):
            other = Path("cluster") / folder.name / name
            assert other.read_bytes() == (folder / name).read_bytes()
