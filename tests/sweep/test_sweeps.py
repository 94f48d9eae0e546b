"""A grid of runs: its cells, the table at any time, and results on a cluster that are the serial ones bit for bit."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import mrecg
from command_line import Finished
from mrecg.errors import MrecgError, RecipeError
from mrecg.sweep.engines import RayCluster, Work, run_in_series
from mrecg.sweep.grid import read_grid

NETWORK = """
import os, signal, threading, time
from pathlib import Path
import torch
from torch import nn

def block(channels):
    return nn.Sequential(nn.Conv2d(channels, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())

def kill_once():
    \"\"\"Kill the first process that has finished a group, and keep what it finished.\"\"\"
    marker = Path("killed")
    while not marker.exists():
        for group in Path("on-ray").glob("*/.unfinished/tune-0001.safetensors"):
            if (group.parent / "worker").exists() or not _is_mine(group):
                continue
            try:
                marker.touch(exist_ok=False)
            except FileExistsError:
                return
            Path("kept.safetensors").write_bytes(group.with_name("tune-0000.safetensors").read_bytes())
            Path("killed").write_text(group.parent.parent.name)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.001)

def _is_mine(group):
    \"\"\"Return whether this process holds the lock of the run.\"\"\"
    lock = str(group.with_name("lock").resolve())
    return any(os.path.realpath(one) == lock for one in Path("/proc/self/fd").iterdir() if one.exists())

def net():
    if os.environ.get("KILL_ONCE"):
        threading.Thread(target=kill_once, daemon=True).start()
    torch.manual_seed(0)
    return nn.Sequential(block(1), block(4), block(4), nn.Flatten(), nn.Linear(64, 10)).eval()
"""
THREADS = max(1, (os.cpu_count() or 1) // 2)
"""Of a cell: a cluster of this machine has two at the same time."""
RAY = ("--ray", "local", "--cpus", str(THREADS), "--json")
GRID = """
network: mine:net
data: demo
images: 16
evaluation_images: 20
preset: [w2a4-brecq, w2a4-qdrop]
seed: [1, 2, 3]
reconstruct.batch_size: 8
length:
- {reconstruct.steps: 2, network.steps: 2}
- {reconstruct.steps: 4, network.steps: 0}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a network and a grid; this process computes with as many threads as a cell of the cluster."""
    (tmp_path / "mine.py").write_text(NETWORK)
    (tmp_path / "grid.yaml").write_text(GRID)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield tmp_path
    torch.set_num_threads(threads)
    sys.modules.pop("mine", None)


@pytest.fixture
def ray_cluster() -> None:
    """Skip where Ray starts no cluster, such as in a sandbox that forbids its processes or their shared memory."""
    pytest.importorskip("ray")
    code = "import ray; ray.init('local', include_dashboard=False); ray.get(ray.remote(lambda: 1).remote())"
    try:
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=180)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"Ray starts no cluster here: {type(error).__name__}")


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    "count", [pytest.param(3, id="short"), pytest.param(12, marks=pytest.mark.slow)]
)
def test_a_killed_cell_goes_on_elsewhere_and_results_are_the_serial_ones(
    count: int,
    folder: Path,
    mrecg_command: Callable[..., Finished],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if count == 3:
        (folder / "grid.yaml").write_text(
            GRID.replace(", w2a4-qdrop", "").partition("- {reconstruct.steps: 4")[0]
        )
    serial = mrecg_command("sweep", "grid.yaml", "--output", "serial")
    assert serial.returncode == 0, serial.stderr
    monkeypatch.setenv("KILL_ONCE", "1")
    done = mrecg_command("sweep", "grid.yaml", "--output", "on-ray", *RAY)
    assert done.returncode == 0, done.stderr
    assert f"{count} of {count}: " in done.stderr
    killed = folder / "on-ray" / (folder / "killed").read_text()
    with safe_open(folder / "kept.safetensors", framework="pt") as kept:
        (group,) = json.loads(kept.metadata()["notes"])["groups"]
    first = mrecg.load(killed).record.groups[0]
    assert json.loads(group) == json.loads(first.model_dump_json())  # its seconds, too
    rows = json.loads(done.stdout)
    assert [row["status"] for row in rows] == ["done"] * count
    for row in rows:
        ours, theirs = (mrecg.load(folder / where / row["cell"]) for where in ("on-ray", "serial"))
        tensors, expected = ours.program.state_dict, theirs.program.state_dict
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
        assert ours.record.accuracy == theirs.record.accuracy
    assert (folder / "on-ray" / "table.md").read_text().count("| done |") == count


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network: a\nseed: []", "The axis 'seed' of .* is empty"),
        ("{}", "has 0 cells"),
        (
            "a: [{seed: 1}, {seed: 2}]\nseed: 3",
            "The axis 'a' of .* sets 'seed', which is set already",
        ),
        ("seed: [1, 1]", "Two cells of .* are called 'seed1'"),
        ("- 1", "grid"),
    ],
)
def test_grids_that_cannot_be_run(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_grid(tmp_path / "grid.yaml")


def test_cells_are_named_by_their_place(folder: Path) -> None:
    cells = read_grid(folder / "grid.yaml")
    assert len(cells) == 12
    assert cells[0].name == "w2a4-brecq-seed1-length2,2"
    assert cells[-1].settings["reconstruct.steps"] == 4
    assert dict(cells[-1].place) == {"preset": "w2a4-qdrop", "seed": "3", "length": "4,0"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("netwrok: mine:net", "A recipe has no key 'netwrok'"),
        ("images: many", "The value of 'images' in the grid is a str, expected an int"),
        ("preset: w2a4-brek", "did you mean 'w2a4-brecq'"),
        ("reconstruct.steps: -1", "reconstruct.steps"),
    ],
)
def test_a_bad_key_or_value_is_refused_before_anything_runs(
    line: str, message: str, folder: Path, mrecg_command: Callable[..., Finished]
) -> None:
    key = line.partition(":")[0]
    lines = [one for one in GRID.splitlines() if not one.startswith(f"{key}:")]
    (folder / "grid.yaml").write_text("\n".join([*lines[:-3], line]))
    done = mrecg_command("sweep", "grid.yaml", "--output", "runs")
    assert done.returncode == 1
    assert message in done.stderr
    assert not (folder / "runs").exists()


def test_failed_cells_are_named_and_one_cell_runs_alone(
    folder: Path, mrecg_command: Callable[..., Finished]
) -> None:
    grid = "network: [mine:net, mine:nothing]\ndata: demo\nimages: 16\npreset: w4a4-rtn\nevaluation_images: 0"
    (folder / "grid.yaml").write_text(grid)
    script = mrecg_command("sweep", "grid.yaml", "--output", "runs", "--slurm", "--gpus", "0.5")
    assert "#SBATCH --array=1-2\n" in script.stdout
    assert "#SBATCH --gres=gpu:1\n" in script.stdout
    last = script.stdout.splitlines()[-1]
    assert last.startswith("mrecg sweep grid.yaml --output runs")
    assert last.endswith('--cell "$SLURM_ARRAY_TASK_ID"')
    alone = mrecg_command("sweep", "grid.yaml", "--output", "runs", "--cell", "1")
    assert (alone.returncode, alone.stdout) == (0, "")
    so_far = mrecg_command("sweep", "grid.yaml", "--output", "runs", "--table", "--json")
    assert [row["status"] for row in json.loads(so_far.stdout)] == ["done", "open"]
    whole = mrecg_command("sweep", "grid.yaml", "--output", "runs")
    assert whole.returncode == 1
    assert "1 of 2 cells failed: mine_nothing" in whole.stderr
    assert "| mine:nothing | failed |" in (folder / "runs" / "table.md").read_text()
    assert mrecg_command("sweep", "grid.yaml", "--output", "runs", "--cell", "3").returncode == 1
    (folder / "grid.yaml").write_text(grid.replace("w4a4", "w3a3"))
    other = mrecg_command("sweep", "grid.yaml", "--output", "runs", "--table")
    assert "weight.bits = 4, not 3" in other.stderr + other.stdout or other.returncode == 1


def test_without_ray_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MrecgError, match=r"Ray is not installed; run pip install 'mrecg\[ray\]'"):
        list(RayCluster("local").run([Work("a", int)]))


def test_one_after_the_other_goes_on_behind_a_failure() -> None:
    def fail() -> int:
        raise MrecgError("It cannot.")

    found = list(run_in_series([Work("a", fail), Work("b", lambda: 1)]))
    assert [(one.name, one.result, one.reason) for one in found] == [
        ("a", None, "It cannot."),
        ("b", 1, ""),
    ]
