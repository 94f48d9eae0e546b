"""A run has its folder from the start: nobody else writes there, nothing is lost, nothing is left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

import mrecg
import toys
from mrecg.runs import places
from mrecg.runs.places import UNFINISHED, check_free, reserve
from quick import quick

FILES = {"graph.json", "model.safetensors", "recipe.yaml", "record.json", "report.html"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def quantize(folder: Path) -> mrecg.QuantizedModel:
    recipe = quick("w2a4-brecq", network__steps=4)
    return mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe, folder=folder)


def kinds_of_folders(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "empty").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    return {
        "new": tmp_path / "deep" / "er",
        "empty": tmp_path / "empty",
        "link": tmp_path / "link",
        "odd": tmp_path / os.fsdecode(b"caf\xe9"),
        "here": Path(),
    }


@pytest.mark.parametrize("kind", ["new", "empty", "link", "odd", "here"])
def test_a_run_is_written_into_any_empty_folder(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = kinds_of_folders(tmp_path)[kind]
    if kind == "here":
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
    made = quantize(folder)
    assert names(folder) == FILES
    assert torch.equal(mrecg.load(folder).model(toys.images(4)), made.model(toys.images(4)))


def test_an_interrupted_run_is_resumed_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = quantize(tmp_path / "whole")
    keep = places.FolderCheckpoints.keep_group

    def keep_some(self: places.FolderCheckpoints, phase: str, index: int, found: object) -> None:
        if index == 2:
            raise KeyboardInterrupt
        keep(self, phase, index, found)  # type: ignore[arg-type]

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(places.FolderCheckpoints, "keep_group", keep_some)
        with pytest.raises(KeyboardInterrupt):
            quantize(run)
    assert names(run) == {UNFINISHED}
    with pytest.raises(mrecg.MrecgError, match="holds an unfinished run; go on with"):
        quantize(run)
    with pytest.raises(mrecg.MrecgError, match="was started with another images"):
        mrecg.resume(run, toys.make("residual"), toys.images(32) + 1)
    with pytest.raises(mrecg.MrecgError, match="was started with another network"):
        mrecg.resume(run, toys.make("chain"), toys.images(32))
    vendors = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    with pytest.raises(mrecg.MrecgError, match="was started with another placement"):
        mrecg.resume(run, toys.make("residual"), toys.images(32), quantizer=vendors)
    found = mrecg.resume(run, toys.make("residual"), toys.images(32))
    assert names(run) == FILES
    assert found.recipe == whole.recipe
    for name, tensor in whole.program.state_dict.items():
        assert torch.equal(found.program.state_dict[name], tensor)
    with pytest.raises(mrecg.MrecgError, match="is finished; there is nothing to resume"):
        mrecg.resume(run, toys.make("residual"), toys.images(32))
    with pytest.raises(mrecg.MrecgError, match="holds no unfinished run"):
        mrecg.resume(tmp_path / "nowhere", toys.make("residual"), toys.images(32))


def test_a_folder_is_one_runs(tmp_path: Path) -> None:
    with reserve(tmp_path / "run"):
        with pytest.raises(mrecg.MrecgError, match="Another process writes the run in"):
            reserve(tmp_path / "run").__enter__()
        (tmp_path / "run" / "mine.txt").write_text("x")
    assert names(tmp_path / "run") == {"mine.txt"}
    with pytest.raises(mrecg.MrecgError, match="is not empty"):
        check_free(tmp_path / "run")


def test_a_folder_that_is_left_is_the_next_ones_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes it as soon as it is free, and keeps what it has there."""
    next_one = contextlib.ExitStack()

    class Lock(FileLock):
        def release(self, force: bool = False) -> None:
            was_locked = self.is_locked
            super().release(force)
            monkeypatch.undo()
            if was_locked:
                next_one.enter_context(reserve(tmp_path / "run"))

    monkeypatch.setattr(places, "FileLock", Lock)
    with next_one:
        with reserve(tmp_path / "run"):
            pass
        assert names(tmp_path / "run") == {UNFINISHED}
        with pytest.raises(mrecg.MrecgError, match="Another process writes the run in"):
            reserve(tmp_path / "run").__enter__()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_what_a_killed_process_was_writing_is_removed(resume: bool, tmp_path: Path) -> None:
    place = tmp_path / "run" / UNFINISHED
    (place / "tries" / "a").mkdir(parents=True)
    drafts = [one / ".mrecg-0123.draft" for one in (place.parent, place, place / "tries" / "a")]
    for draft in drafts:
        draft.touch()
    if resume:
        (place / "inputs.json").write_text("{}")
    with reserve(tmp_path / "run", resume):
        assert not any(draft.exists() for draft in drafts)
        assert (place / "tries").exists() == resume


@pytest.mark.parametrize("resume", [False, True])
def test_a_link_in_the_place_of_our_folder_is_refused(resume: bool, tmp_path: Path) -> None:
    """What it leads to would be emptied."""
    (tmp_path / "theirs").mkdir()
    for name in ("precious.txt", "inputs.json"):
        (tmp_path / "theirs" / name).write_text("{}")
        (tmp_path / "run").mkdir(exist_ok=True)
        if not (tmp_path / "run" / UNFINISHED).is_symlink():
            (tmp_path / "run" / UNFINISHED).symlink_to(tmp_path / "theirs")
        with pytest.raises(mrecg.MrecgError, match=r"is no folder of mrecg's; name another"):
            reserve(tmp_path / "run", resume).__enter__()
    assert names(tmp_path / "theirs") == {"precious.txt", "inputs.json"}


SAVING = """
    import sys, torch
    sys.path[:0] = {path!r}
    torch.set_num_threads(1)
    import mrecg, toys
    from mrecg.runs import places
    from quick import quick
    write = places.replace_file
    def slowly(path, contents):
        write(path, contents)
        print("wrote", path.name, flush=True)
        sys.stdin.readline()
    places.replace_file = slowly
    made = mrecg.quantize(toys.make("residual"), toys.images(32), recipe=quick("w4a4-rtn"))
    made.save({folder!r})
"""


@pytest.mark.skipif(os.name != "posix", reason="the signal is a POSIX one")
def test_a_folder_that_was_being_saved_into_can_be_used_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    code = textwrap.dedent(SAVING.format(path=sys.path, folder=str(run)))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    assert names(run) > {UNFINISHED}
    quantize(run)
    assert names(run) == FILES
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "recipe.yaml").write_text("theirs")
    with pytest.raises(mrecg.MrecgError, match="is not empty"):
        quantize(tmp_path / "other")


def test_nothing_is_left_where_nothing_was_done(tmp_path: Path) -> None:
    with pytest.raises(mrecg.MrecgError), reserve(tmp_path / "run"):
        mrecg.quantize(torch.nn.Flatten(), toys.images(8), recipe=quick("w4a4-rtn"))
    assert not (tmp_path / "run").exists()


def test_a_disk_that_is_full_at_the_end_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = places.replace_file

    def full(path: Path, contents: bytes) -> None:
        if path.name == "record.json":
            raise OSError(28, "No space left on device")
        replace(path, contents)

    with monkeypatch.context() as patch:
        patch.setattr(places, "replace_file", full)
        with pytest.raises(mrecg.MrecgError, match=r"record\.json cannot be written: No space"):
            quantize(tmp_path / "run")
    assert names(tmp_path / "run") == {UNFINISHED}
    mrecg.resume(tmp_path / "run", toys.make("residual"), toys.images(32))
    assert names(tmp_path / "run") == FILES


CHILD = """
    import sys, torch
    sys.path[:0] = {path!r}
    torch.set_num_threads(1)
    import mrecg, toys
    from mrecg.runs import checkpoints
    from quick import quick
    write = checkpoints.replace_file
    def slowly(path, contents):
        write(path, contents)
        print("wrote", path.name, flush=True)
        sys.stdin.readline()
    checkpoints.replace_file = slowly
    recipe = quick("w2a4-brecq", network__steps=4)
    mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe, folder={folder!r})
"""


@pytest.mark.skipif(os.name != "posix", reason="the signal is a POSIX one")
def test_a_killed_process_holds_no_lock_and_loses_no_group(tmp_path: Path) -> None:
    """The child waits after every write for a line, and is killed while it waits for the fourth."""
    torch.set_num_threads(1)
    run = tmp_path / "run"
    code = textwrap.dedent(CHILD.format(path=sys.path, folder=str(run)))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for _ in range(4):
            child.stdout.readline()
            child.stdin.write("\n")
            child.stdin.flush()
        child.stdout.readline()
        with pytest.raises(mrecg.MrecgError, match="holds an unfinished run"):
            quantize(run)
        with pytest.raises(mrecg.MrecgError, match="Another process"):
            mrecg.resume(run, toys.make("residual"), toys.images(32))
        child.send_signal(signal.SIGKILL)
    finished = {path.name: path.stat().st_mtime_ns for path in (run / UNFINISHED).glob("tune-*")}
    assert len(finished) == 4
    time.sleep(0.01)
    found = mrecg.resume(run, toys.make("residual"), toys.images(32))
    whole = quantize(tmp_path / "whole")
    for name, tensor in whole.program.state_dict.items():
        assert torch.equal(found.program.state_dict[name], tensor)
