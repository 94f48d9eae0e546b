"""Run folders made to execute code, to fill the memory or to read elsewhere: refused in one sentence."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mrecg
import run_folders
import toys
from mrecg import cli
from mrecg.runs import folder
from refusals import assert_refused
from run_folders import change_graph, change_record, operator, rename_tensor, seal


class Payload:
    """Writes the canary when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.code = f"open({str(path)!r}, 'w').close()"

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.code,)


def pickled(canary: Path) -> bytes:
    archive = io.BytesIO()
    torch.save(Payload(canary), archive)
    return archive.getvalue()


def weights(canary: Path, **entry: object) -> bytes:
    config = {"path_name": "weight_0", "is_param": True, "use_pickle": True, **entry}
    return json.dumps({"config": {"w": config}}).encode()


MODEL = b'{"graph_module": {"range": {"expr_str": "__import__(\'os\').system(\'touch canary\')"}}}'
ARCHIVES: dict[str, Callable[[Path], dict[str, bytes]]] = {
    "sample inputs": lambda c: {"data/sample_inputs/model.pt": pickled(c)},
    "pickled weights": lambda c: {
        "data/weights/model_weights_config.json": weights(c),
        "data/weights/weight_0": pickled(c),
    },
    "pickled constants": lambda c: {
        "data/constants/model_constants_config.json": weights(c),
        "data/constants/weight_0": pickled(c),
    },
    "opaque object": lambda c: {"data/constants/opaque_obj_0": pickle.dumps(Payload(c))},
    "custom object": lambda c: {"data/constants/custom_obj_0": pickle.dumps(Payload(c))},
    "legacy weights": lambda c: {"data/weights/model.pt": pickled(c)},
    "legacy constants": lambda c: {"data/constants/model.pt": pickled(c)},
    "shared object": lambda c: {"data/aotinductor/model/model.so": b"\x7fELF"},
    "expression": lambda c: {"models/model.json": MODEL},
    "expression with a hint": lambda c: {
        "models/model.json": MODEL.replace(b"expr_str", b'hint": 1, "expr_str')
    },
    "bomb": lambda c: {"models/model.json": bytes(1 << 24)},
    "traversal": lambda c: {f"../{c.name}": b"x"},
}


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/archive_format", b"pt2")
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_of_torch_are_never_opened(name: str, run: Path, canary: Path) -> None:
    write_archive(run / "graph.pt2", ARCHIVES[name](canary))
    (run / "graph.json").rename(run / "kept")
    assert_refused(run, canary, r"earlier version .* its graph\.pt2 is not opened.* quantize again")
    write_archive(run / "graph.json", ARCHIVES[name](canary))
    seal(run)
    assert_refused(run, canary, "is no stored graph: it is no JSON")


def test_a_planted_archive_is_ignored(run: Path, canary: Path) -> None:
    write_archive(run / "graph.pt2", ARCHIVES["sample inputs"](canary))
    x = toys.images(4)
    assert torch.equal(mrecg.load(run).model(x), run_folders.quantized().model(x))
    assert not canary.exists()


@pytest.mark.parametrize("name", run_folders.FILES)
def test_pickles_in_place_of_files(name: str, run: Path, canary: Path) -> None:
    (run / name).write_bytes(pickled(canary))
    if name != "record.json":
        seal(run)
    assert_refused(run, canary)


@pytest.mark.parametrize(
    "name",
    [
        'w") or open("{canary}", "w',  # the graph module's code would quote it
        "training",
        "forward",
        "__class__",
        "a.__dict__",
        "a..b",
        "",
    ],
)
def test_tensors_that_would_be_something_else(name: str, run: Path, canary: Path) -> None:
    name = name.replace("{canary}", str(canary)).replace(".", "") if "canary" in name else name
    tensors = load_file(run / "model.safetensors")
    first = next(iter(json.loads((run / "graph.json").read_text())["tensors"]))
    tensors[name] = tensors.pop(first)
    save_file(tensors, run / "model.safetensors")
    change_graph(run, lambda graph: rename_tensor(graph, name))
    assert_refused(run, canary, "a tensor has the name")


def test_tensors_whose_names_are_keywords(run: Path, canary: Path) -> None:
    tensors = load_file(run / "model.safetensors")
    first = next(iter(json.loads((run / "graph.json").read_text())["tensors"]))
    tensors["class.x"] = tensors.pop(first)
    save_file(tensors, run / "model.safetensors")
    change_graph(run, lambda graph: rename_tensor(graph, "class.x"))
    assert_refused(run, canary, "do not fit each other")


@pytest.mark.parametrize("size", [1 << 20, 1 << 40, (1 << 63) - 1])
def test_tensors_of_sizes_that_the_file_does_not_have(size: int, run: Path, canary: Path) -> None:
    header = {"x": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}}
    text = json.dumps(header).encode()
    (run / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    seal(run)
    assert_refused(run, canary, "its tensors cannot be read")
    (run / "model.safetensors").write_bytes(struct.pack("<Q", size) + text)
    seal(run)
    assert_refused(run, canary, "its tensors cannot be read")


def test_files_that_are_larger_than_they_can_be(run: Path, canary: Path) -> None:
    for name, size in (("model.safetensors", 1 << 38), ("graph.json", 1 << 38)):
        whole = (run / name).read_bytes()
        os.truncate(run / name, size)  # holes take no room on the disk
        assert_refused(run, canary, f"{name} is damaged: it has more than")
        (run / name).write_bytes(whole)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch {canary}']",
        "a: !!python/name:os.system",
        "a: &a [x, x]\nb: [*a, *a]",
        "[" * 10_000,
        "seed: [",
        "seed: yes please",
        "seed: 1" + ":59" * 1_000_000,  # a number to the base 60
        "seed: 1" + ":59" * 1_000 + ".5",
        'seed: !!int ""',
        'seed: !!float ""',
        'seed: !!bool "x"',
        'seed: !!timestamp "x"',
    ],
    ids=lambda text: text[:30],
)
def test_recipes_that_are_none(text: str, run: Path, canary: Path) -> None:
    (run / "recipe.yaml").write_text(text.replace("{canary}", str(canary)))
    seal(run)
    assert_refused(run, canary)


def test_every_file_is_read_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the hash and a second reading, somebody could exchange the file."""
    original, seen = folder.read_file, []

    def read_then_exchange(path: Path, *limits: Any) -> bytes:
        contents = original(path, *limits)
        path.write_bytes(b"exchanged")
        seen.append(path.name)
        return contents

    monkeypatch.setattr(folder, "read_file", read_then_exchange)
    x = toys.images(3)
    loaded = mrecg.load(run)
    assert torch.equal(loaded.model(x), run_folders.quantized().model(x))
    assert loaded.recipe == run_folders.quantized().recipe
    assert sorted(seen) == sorted(run_folders.OTHERS)


@pytest.mark.parametrize("name", run_folders.FILES)
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "device", "nowhere"])
def test_files_that_are_no_files(kind: str, name: str, run: Path, canary: Path) -> None:
    path = run / name
    path.rename(run / "kept")
    if kind == "link":
        path.symlink_to(run / "kept")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else run / "nobody")
    assert_refused(run, canary, f"{name} is not a regular file")


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"../../../etc/passwd": "0" * 64},
        {"recipe.yaml": "0" * 64, "graph.json": "0" * 64},
        {"/etc/passwd": "0" * 64, "graph.json": "0", "model.safetensors": "0"},
    ],
)
def test_records_that_name_other_files(files: dict[str, str], run: Path, canary: Path) -> None:
    def name_them(record: dict[str, Any]) -> None:
        record["files"] = files | {"record.json": record["files"]["record.json"]}

    change_record(run, name_them)
    assert_refused(run, canary, "is damaged: it names the contents of .*, expected those of")


@pytest.mark.parametrize("value", ["0" * 64, "", "é"])
def test_records_with_other_hashes(value: str, run: Path, canary: Path) -> None:
    change_record(run, lambda record: record["files"].update({"graph.json": value}))
    assert_refused(run, canary, r"graph\.json is not what record\.json says")


def test_the_command_line_says_it_in_a_sentence(
    run: Path, canary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change_graph(run, operator("os.system", f"touch {canary}"))
    file = run / "model.onnx"
    for arguments in (
        ["evaluate", str(run), "--data", "demo"],
        ["export", str(run), "--output", str(file)],
        ["verify", str(run), str(file), "--data", "demo"],
    ):
        monkeypatch.setattr("sys.argv", ["mrecg", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        assert stopped.value.code == 1
        assert captured.out == ""
        assert captured.err.startswith("error: The run in ")
        assert "'os.system' is not one that a run may hold" in captured.err
        assert captured.err.count("\n") == 1
    assert not canary.exists()
    assert not file.exists()


def test_a_verification_is_not_written_through_a_link(run: Path, tmp_path: Path) -> None:
    from mrecg.export.findings import Verification, save_verification

    victim = tmp_path / "victim"
    victim.write_text("kept")
    (run / "model.onnx.verification.json").symlink_to(victim)
    figures = dict.fromkeys(Verification.model_fields, 1)
    layers = dict.fromkeys(("outputs", "integer_layers", "float_layers", "runtimes"), ())
    found = Verification.model_validate({**figures, **layers, "file": "model.onnx"})
    path = save_verification(run, found)
    assert victim.read_text() == "kept"
    assert Verification.read(path) == found
