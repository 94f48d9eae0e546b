"""Thousands of damaged and invented inputs: each is read, or refused on purpose; the seeds make them repeatable.

Continuous integration tries a few of each kind; `-m slow` tries 16,000.
"""

import random
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save

import configuration_files
import mrecg
from mrecg.cli.recipe_choice import read_overrides
from mrecg.data.preprocessing import UnreadableImage
from mrecg.data.samples import open_image
from mrecg.errors import MrecgError
from mrecg.paper.mqbench import read_experiment
from mrecg.paper.networks import build, load_weights
from mrecg.records.plan import Plan
from run_folders import quantized

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
    """One kind of input: how to read it from a file of a name, and good examples."""

    name: str
    read: Callable[[Path], object]
    examples: Callable[[], list[bytes]]


def _encoded(kind: str, mode: str) -> bytes:
    file = BytesIO()
    image = Image.effect_noise((12, 9), 60).convert(mode)
    image.save(file, kind)
    return file.getvalue()


def _images() -> list[bytes]:
    rgb = [_encoded(kind, "RGB") for kind in ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")]
    return [*rgb, *(_encoded(kind, "L") for kind in ("GIF", "PNG", "TIFF"))]


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


KINDS = {
    "recipe": Kind(
        "r.yaml", mrecg.read_recipe, lambda: [mrecg.preset("w2a4-qdrop-mrecg").to_yaml().encode()]
    ),
    "settings": Kind(
        "s.txt",
        _overrides,
        lambda: [b"reconstruct.beta=[20, 2]\nname=x\nplan.scheme=[1, 2]\nseed=3"],
    ),
    "plan": Kind("p.json", Plan.read, lambda: [quantized().record.plan.to_json().encode()]),
    "record": Kind(
        "record.json",
        type(quantized().record).read,
        lambda: [quantized().record.to_json().encode()],
    ),
    "mqbench": Kind(
        "c.yaml",
        read_experiment,
        lambda: [
            yaml.safe_dump(configuration_files.settings(one)).encode()
            for one in ("mobilenet_v2", "resnet18")
        ],
    ),
    "pickle": Kind("c.pth", _weights, _pickles),
    "safetensors": Kind("c.safetensors", _weights, lambda: [save(_state())]),
    "image": Kind("i.jpg", open_image, _images),
}


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


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_damaged_inputs(kind: str, count: int, tmp_path: Path) -> None:
    name, read, examples = KINDS[kind]
    good, path = examples(), tmp_path / name
    for seed in range(count):
        chance = random.Random(f"{kind} {seed}")
        path.write_bytes(damaged(chance.choice(good), chance))
        try:
            read(path)
        except (MrecgError, UnreadableImage) as error:
            message = str(error)
        except Exception as error:
            raise AssertionError(f"the {kind} of seed {seed}") from error
        else:
            continue
        assert message
        assert "\n" not in message, seed
        assert len(message) < 3000, seed
