"""Every file is written whole or not at all, wherever the disk fails; a link that somebody planted is not followed."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import mrecg
import toys
from faults import failing_at, files_of_at_most
from mrecg.cli.run_pages import refresh_page
from mrecg.errors import ExportError, MrecgError, RunError
from mrecg.export.findings import save_verification
from mrecg.export.pt2 import export_program
from mrecg.writing import replace_file, require_new_file, require_writable, write_file
from quick import quick
from run_folders import copy, quantized
from verifications import VERIFIED


def export_onnx(folder: Path) -> None:
    pytest.importorskip("onnx")
    mrecg.export_onnx(quantized(), folder / "m.onnx", runtime=None)


WRITERS: dict[str, Callable[[Path], object]] = {
    "save": lambda folder: quantized().save(folder / "saved"),
    "onnx": export_onnx,
    "pt2": lambda folder: export_program(quantized(), folder / "m.pt2"),
    "plan": lambda folder: quantized().record.plan.write(folder / "deep" / "plan.json"),
    "report": lambda folder: quantized().report(folder / "page.html"),
    "page": lambda folder: refresh_page(folder / "run"),
    "verification": lambda folder: save_verification(folder / "run", VERIFIED),
    "bytes": lambda folder: write_file(folder / "table.md", b"x" * 9000, RunError),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantized().save(tmp_path_factory.mktemp("module") / "run")


def contents(folder: Path) -> dict[str, str]:
    """The hash of each file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fails_at_any_operation_leaves_no_half_file(
    name: str, run: Path, tmp_path: Path
) -> None:
    expected, number = tmp_path / "expected", 0
    copy(run, expected / "run")
    before = contents(expected)
    WRITERS[name](expected)
    after = contents(expected)
    while True:
        folder = tmp_path / str(number)
        copy(run, folder / "run")
        said = "No space left"
        with failing_at(number, folder) as failed:
            try:
                WRITERS[name](folder)
            except MrecgError as error:
                said = str(error)
        assert "No space left" in said
        assert "\n" not in said
        found = contents(folder)
        assert found in (before, after), (number, found.items() ^ after.items())
        if not failed():
            break
        number += 1
    assert found == after
    assert number >= 4


@pytest.mark.parametrize("size", [0, 1, 300, 3000])
@pytest.mark.parametrize("name", WRITERS)
def test_a_write_that_the_system_cuts_off(name: str, size: int, run: Path, tmp_path: Path) -> None:
    """The limit is the system's own: torch's zip writer, on a file, would end the process here."""
    copy(run, tmp_path / "run")
    before = contents(tmp_path)
    said = ""
    with files_of_at_most(size):
        try:
            WRITERS[name](tmp_path)
        except MrecgError as error:
            said = str(error)
    new = [tmp_path / one for one, _ in contents(tmp_path).items() - before.items()]
    if said:
        assert "File too large" in said
        assert not new
    else:
        assert new
        assert all(path.stat().st_size <= size for path in new)


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_that_fails_during_a_run_costs_at_most_a_group(every: int, tmp_path: Path) -> None:
    recipe = quick("w2a4-brecq", network__steps=2, reconstruct__steps=2)
    arguments = toys.make("chain"), toys.images(16)
    mrecg.quantize(*arguments, recipe=recipe, folder=tmp_path / "whole")
    expected = (tmp_path / "whole" / "model.safetensors").read_bytes()
    for number in range(0, 1000, every):
        folder = tmp_path / str(number)
        said = "No space left"
        with failing_at(number, folder) as failed:
            try:
                mrecg.quantize(*arguments, recipe=recipe, folder=folder)
            except MrecgError as error:
                said = str(error)
        assert "No space left" in said
        if not (folder / "record.json").exists():
            if (folder / ".unfinished" / "inputs.json").exists():
                mrecg.resume(folder, *arguments)
            else:
                mrecg.quantize(*arguments, recipe=recipe, folder=folder)
        assert (folder / "model.safetensors").read_bytes() == expected
        assert not list(folder.rglob("*.draft"))
        if not failed():
            break
    assert 20 < number < 900


@pytest.mark.parametrize("name", ["onnx", "pt2", "verification", "bytes"])
def test_a_planted_link_is_replaced_and_never_followed(
    name: str, run: Path, tmp_path: Path
) -> None:
    copy(run, tmp_path / "run")
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    target = {
        "onnx": tmp_path / "m.onnx",
        "pt2": tmp_path / "m.pt2",
        "verification": tmp_path / "run" / "m.onnx.verification.json",
        "bytes": tmp_path / "table.md",
    }[name]
    target.symlink_to(mine)
    WRITERS[name](tmp_path)
    assert mine.read_text() == "mine"
    assert target.is_file()
    assert not target.is_symlink()


def test_an_export_checks_its_target_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx_files = pytest.importorskip("mrecg.export.onnx.files")
    monkeypatch.setattr(onnx_files, "translate", None)
    monkeypatch.setattr("torch.export.save", None)
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.onnx").mkdir()
    for path in (
        tmp_path / "file" / "m.onnx",
        tmp_path / "folder.onnx",
        tmp_path / ("x" * 300),
        Path("a\0b.onnx"),
    ):
        for export in (mrecg.export_onnx, export_program):
            with pytest.raises(ExportError, match=r"cannot be written|is no file"):
                export(quantized(), path)


@pytest.mark.skipif(os.name != "posix", reason="pipes have names on POSIX only")
def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for check in (
        lambda: require_writable(tmp_path / "pipe", RunError),
        lambda: write_file(tmp_path / "pipe", b"", RunError),
    ):
        with pytest.raises(RunError, match="is no file, so no file can replace it"):
            check()


def test_a_file_of_the_users_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(RunError, match="link already exists"):
        require_new_file(tmp_path / "link")
    with pytest.raises(RunError, match="already exists"):
        quantized().record.plan.write(tmp_path / "link")


def test_a_name_may_have_the_length_that_the_system_allows(tmp_path: Path) -> None:
    replace_file(tmp_path / ("é" * 127), b"x")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"x"]
