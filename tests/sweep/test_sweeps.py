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
from mrecg.cli.grid_runs import GridRun
from mrecg.errors import MrecgError, RecipeError
from mrecg.sweep.engines import RayCluster, Work, run_in_series
from mrecg.sweep.grid import GridCell, read_grid

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
        ("1: [2, 3]", "The key 1 of .* is no text"),
        ("a: [{yes: 1}, {yes: 2}]", "The key True of .* is no text"),
        ("evaluation-images: 1\nevaluation_images: 2", "'evaluation_images' of .* is there twice"),
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
        ("images: many", "The value 'many' of 'images' in the grid does not fit"),
        ("images: 0", "The value 0 of 'images'"),
        ("evaluation-images: -1", "The value -1 of 'evaluation_images'"),
        ("workers: -1", "The value -1 of 'workers'"),
        ("workers: 257", "The value 257 of 'workers'"),
        ("channels: 5", "The value 5 of 'channels'"),
        ("channels: 2", "Images have 1 channel"),
        ("size: 1.5", "The value 1.5 of 'size'"),
        ("seed: null", "The value of 'seed' in the grid is a NoneType"),
        ("weights: {a: b}", "The value of 'weights' in the grid is a dict"),
        ("crops: centre", "The value 'centre' of 'crops'"),
        ("schedule: slow", "The value 'slow' of 'schedule'"),
        ("memory: much", "The memory budget 'much' cannot be read"),
        ("mean: red", "The option --mean takes numbers"),
        ("std: 0", "The mean .* and the std .* do not fit"),
        ("widths: nowhere.yaml", "nowhere.yaml cannot be read"),
        ("network: onnx:nowhere.onnx", "nowhere.onnx"),
        ("method: brecq", "got 'method' and 'preset'"),
        ("preset: w2a4-brek", "did you mean 'w2a4-brecq'"),
        ("reconstruct.steps: -1", "reconstruct.steps"),
    ],
)
def test_a_bad_key_or_value_is_refused_before_anything_runs(
    line: str, message: str, tmp_path: Path
) -> None:
    key = line.partition(":")[0]
    given = {"network": "mine:net", "data": "folder:images", "preset": "w2a4-brecq"}
    lines = [f"{name}: {value}" for name, value in given.items() if name != key]
    (tmp_path / "grid.yaml").write_text("\n".join([*lines, line]))
    (cell,) = read_grid(tmp_path / "grid.yaml")
    with pytest.raises(MrecgError, match=message):
        GridRun(cell, tmp_path / "run").check()


def test_numbers_of_a_grid_are_options_too() -> None:
    settings = {"network": "mine:net", "data": "folder:images", "mean": 0.5, "std": ".25,.5,1"}
    GridRun(GridCell("run", {}, settings), Path("run")).check()
    with pytest.raises(MrecgError, match="No images are named"):
        GridRun(GridCell("run", {}, {"network": "mine:net"}), Path("run")).check()


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
    whole = mrecg_command("sweep", "grid.yaml", "--output", "runs", "--quiet")
    assert whole.returncode == 1
    why, error = whole.stderr.splitlines()
    assert why.startswith("2 of 2: mine_nothing: failed: ")
    assert error.startswith(
        "error: 1 of 2 cells failed: mine_nothing; do what the reasons above say"
    )
    assert "| mine:nothing | failed |" in (folder / "runs" / "table.md").read_text()
    assert mrecg_command("sweep", "grid.yaml", "--output", "runs", "--cell", "3").returncode == 1
    for change, reason in {
        ("preset", "weight.bits: 3\npreset"): "weight.bits = 4, not 3",
        ("images: 16", "images: 17"): "images = 16, not 17",
        ("mine:net,", "other/mine:net,"): "network = mine:net, not other/mine:net",
        ("data: demo", "data: fashion-mnist:elsewhere"): "data = demo, not fashion-mnist:elsewhere",
        ("preset", "validation: folder:v\npreset"): "validation = None, not folder:v",
        ("preset", "weights: a.pt\npreset"): "weights = None, not a.pt",
        ("preset", "crops: random\npreset"): "crops = center, not random",
        ("images: 0", "images: 5"): "evaluation_images = 0, not 5",
    }.items():
        (folder / "grid.yaml").write_text(grid.replace(*change))
        other = mrecg_command("sweep", "grid.yaml", "--output", "runs", "--table")
        assert other.returncode == 1
        cell = "mine_net: failed: The run in runs/mine_net was made with"
        assert f"{cell} {reason}; remove it" in other.stderr
    (folder / "grid.yaml").write_text(grid)
    again = mrecg_command("sweep", "grid.yaml", "--output", "runs", "--table")
    assert (again.returncode, again.stderr) == (0, "")


def test_without_ray_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MrecgError, match=r"Ray is not installed; run pip install 'mrecg\[ray\]'"):
        list(RayCluster("local").run([Work("a", int)]))


def test_one_after_the_other_goes_on_behind_a_failure() -> None:
    def fail() -> int:
        raise MrecgError("It cannot.")

    def break_down() -> int:
        return {}["steps"]  # type: ignore[no-any-return]

    found = list(run_in_series([Work("a", fail), Work("b", break_down), Work("c", lambda: 1)]))
    assert [(one.name, one.result, one.reason) for one in found] == [
        ("a", None, "It cannot."),
        ("b", None, "KeyError: 'steps'."),
        ("c", 1, ""),
    ]
