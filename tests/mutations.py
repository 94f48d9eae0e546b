"""Damaged inputs of every kind, from seeds: each has to be read, or refused on purpose."""

import gzip
import random
import tempfile
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

import configuration_files
import mrecg
import run_folders
import toys
from mrecg.cli.recipe_choice import read_overrides
from mrecg.cli.run_pages import refresh_page
from mrecg.data.fashion_mnist import load_split
from mrecg.data.preprocessing import UnreadableImage
from mrecg.data.samples import open_image
from mrecg.errors import MrecgError
from mrecg.export.findings import RuntimeRecord, save_verification
from mrecg.paper.mqbench import read_experiment
from mrecg.paper.networks import build, load_weights
from mrecg.records.plan import Plan
from mrecg.records.record import Record
from mrecg.runs import checkpoints
from mrecg.runs.checkpoints import FolderCheckpoints
from run_folders import quantized
from verifications import VERIFIED

_TOKENS = (
    *("null", "~", ".inf", "-.inf", ".nan", "true", "[]", "{}", "''", "-1", "0", "1e999", "1:2:3"),
    *("9" * 400, "[[[[", "}}", "!!int x", "!!timestamp x", "!!python/name:os.system", "*a", "&a"),
    *(
        "<<: {a: 1}",
        "? ",
        "- ",
        "2023-99-99",
        "\\uD800",
        "\x00",
        "\ufeff",
        "é",
        "0x",
        "|",
        ">",
        "%",
    ),
)


class Kind(NamedTuple):
    """One kind of input: how to write a damaged one into an empty folder, and how to read it."""

    write: Callable[[Path, random.Random], Path]
    read: Callable[[Path], object]


def refusal(kind: str, seed: int, folder: Path) -> str | None:
    """Why the damaged input of a seed is refused; nothing where it can be read.

    Raises:
        AssertionError: the reason is not one short line.
        Exception: what nobody raised on purpose.
    """
    chance = random.Random(f"{kind} {seed}")
    path = KINDS[kind].write(folder, chance)
    try:
        KINDS[kind].read(path)
    except (MrecgError, UnreadableImage) as error:
        message = str(error)
        assert message
        assert "\n" not in message
        assert len(message) < 3000
        return message
    return None


def damaged(contents: bytes, chance: random.Random) -> bytes:
    """Change, insert, remove, repeat or cut off some bytes, or put in what parsers stumble over."""
    found = bytearray(contents)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(found) + 1)
        end = min(len(found), at + chance.choice((1, 2, 8, 40)))
        change = chance.randrange(6)
        if change == 0 and at < len(found):
            found[at] ^= 1 << chance.randrange(8)
        elif change == 1:
            found[at:at] = chance.choice(_TOKENS).encode("utf-8", "replace")
        elif change == 2:
            del found[at:end]
        elif change == 3:
            found[at:at] = found[at:end] * chance.randint(1, 30)
        elif change == 4:
            found[at:end] = chance.randbytes(end - at)
        elif chance.random() < 0.3:
            del found[at:]
        else:
            lines = bytes(found).split(b"\n")
            line = chance.randrange(len(lines))
            head, colon, _ = lines[line].partition(b":")
            lines[line] = head + colon + b" " + chance.choice(_TOKENS).encode("utf-8", "replace")
            found = bytearray(b"\n".join(lines))
    return bytes(found)


def _file(name: str, examples: Callable[[], list[bytes]]) -> Callable[[Path, random.Random], Path]:
    """A file of a name, damaged; `examples` are good ones."""
    good = cache(examples)

    def write(folder: Path, chance: random.Random) -> Path:
        (folder / name).write_bytes(damaged(chance.choice(good()), chance))
        return folder / name

    return write


def _encoded(kind: str, mode: str) -> bytes:
    file = BytesIO()
    image = Image.effect_noise((12, 9), 60).convert(mode)
    image.save(file, kind)
    return file.getvalue()


def _images() -> list[bytes]:
    rgb = [_encoded(kind, "RGB") for kind in ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")]
    return [*rgb, *(_encoded(kind, "L") for kind in ("GIF", "PNG", "TIFF"))]


def _idx_files() -> list[bytes]:
    header = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in (6, 28, 28))
    return [gzip.compress(header + random.Random(0).randbytes(6 * 28 * 28))]


def _split(path: Path) -> object:
    labels = bytes([0, 0, 8, 1]) + (6).to_bytes(4, "big") + bytes(range(6))
    path.with_name("train-labels-idx1-ubyte").write_bytes(labels)
    return load_split("train", path.parent)


def _pickles() -> list[bytes]:
    found = []
    for new in (True, False):
        file = BytesIO()
        torch.save({"model": _state()}, file, _use_new_zipfile_serialization=new)
        found.append(file.getvalue())
    return found


def _state() -> dict[str, torch.Tensor]:
    return dict(build("resnet18_small").fc.state_dict())  # type: ignore[union-attr]


def _overrides(path: Path) -> object:
    return mrecg.preset(
        "w4a4-brecq", read_overrides(path.read_text("utf-8", "replace").split("\n"))
    )


def _weights(path: Path) -> object:
    return load_weights(torch.nn.Linear(128, 10), path)


@cache
def _run_files() -> dict[str, bytes]:
    """The files of a run, with what the verification of an exported file showed."""
    speed = RuntimeRecord(name="r", seconds=1.0, float_seconds=2.0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = quantized().save(Path(scratch) / "run")
        save_verification(folder, VERIFIED.model_copy(update={"runtimes": (speed,)}))
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _write_run(folder: Path, chance: random.Random) -> Path:
    """A run of which one file is damaged, in half of the cases by somebody who recomputes every hash."""
    files = dict(_run_files())
    name = chance.choice(sorted(files))
    files[name] = damaged(files[name], chance)
    for one, contents in files.items():
        (folder / one).write_bytes(contents)
    if chance.random() < 0.5:
        try:
            run_folders.seal(folder)
        except MrecgError:  # the record itself cannot be read any more
            return folder
    return folder


def _read_run(folder: Path) -> None:
    mrecg.load(folder)
    refresh_page(folder)


INPUTS = {"recipe": "a"}


@cache
def _checkpoint_files() -> dict[str, bytes]:
    """What an unfinished run keeps: a group, and the network as a whole."""
    recipe = mrecg.preset(
        "w2a4-brecq",
        {"reconstruct.steps": 1, "reconstruct.batch_size": 4, "network.steps": 5},
    )
    with tempfile.TemporaryDirectory() as scratch:
        kept = FolderCheckpoints(Path(scratch), INPUTS)
        mrecg.prepare(toys.make("chain"), toys.images(8), recipe=recipe).quantize(checkpoints=kept)
        names = ("inputs.json", "tune-0000.safetensors", "network.safetensors")
        return {name: (Path(scratch) / name).read_bytes() for name in names}


def _write_checkpoints(folder: Path, chance: random.Random) -> Path:
    """Checkpoints of which one is damaged; in half of the cases in its notes, and with a hash that fits."""
    files = dict(_checkpoint_files())
    name = chance.choice(sorted(files))
    for one, contents in files.items():
        (folder / one).write_bytes(contents)
    if name == "inputs.json" or chance.random() < 0.5:
        (folder / name).write_bytes(damaged(files[name], chance))
        return folder
    with safe_open(folder / name, framework="pt") as file:
        notes = damaged(file.metadata()["notes"].encode(), chance).decode("utf-8", "replace")
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    tensors.pop(chance.choice([*sorted(tensors), ""]), None)
    sealed = {"notes": notes, "sha256": checkpoints._hash(tensors, notes)}
    (folder / name).write_bytes(save(tensors, sealed))
    return folder


def _read_checkpoints(folder: Path) -> None:
    kept = FolderCheckpoints(folder, INPUTS)
    kept.group("tune", 0)
    kept.network()


@cache
def _onnx_files() -> tuple[bytes, bytes]:
    """A float network as a file, and a quantized one."""
    from mrecg.export.onnx.files import float_model

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "m.onnx"
        float_model(quantized().program, path)
        return path.read_bytes(), mrecg.export_onnx(quantized(), path).read_bytes()


def _verify(path: Path) -> object:
    return mrecg.verify_onnx(quantized(), path, toys.images(4), repeats=0)


KINDS = {
    "recipe": Kind(
        _file("r.yaml", lambda: [mrecg.preset("w2a4-qdrop-mrecg").to_yaml().encode()]),
        mrecg.read_recipe,
    ),
    "settings": Kind(
        _file("s.txt", lambda: [b"reconstruct.beta=[20, 2]\nname=x\nplan.scheme=[1, 2]\nseed=3"]),
        _overrides,
    ),
    "plan": Kind(_file("p.json", lambda: [quantized().record.plan.to_json().encode()]), Plan.read),
    "record": Kind(
        _file("record.json", lambda: [quantized().record.to_json().encode()]), Record.read
    ),
    "mqbench": Kind(
        _file(
            "c.yaml",
            lambda: [
                yaml.safe_dump(configuration_files.settings(one)).encode()
                for one in ("mobilenet_v2", "resnet18")
            ],
        ),
        read_experiment,
    ),
    "pickle": Kind(_file("c.pth", _pickles), _weights),
    "safetensors": Kind(_file("c.safetensors", lambda: [save(_state())]), _weights),
    "image": Kind(_file("i.jpg", _images), open_image),
    "idx": Kind(_file("train-images-idx3-ubyte.gz", _idx_files), _split),
    "run": Kind(_write_run, _read_run),
    "unfinished": Kind(_write_checkpoints, _read_checkpoints),
    "onnx network": Kind(_file("f.onnx", lambda: [_onnx_files()[0]]), mrecg.from_onnx),
    "onnx export": Kind(_file("q.onnx", lambda: [_onnx_files()[1]]), _verify),
}
