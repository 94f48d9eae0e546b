"""Checkpoints as they are published load; everything else is refused in a sentence."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import mrecg
from mrecg.errors import ModelError
from mrecg.paper.networks import build, load_weights, make_network

KEYS = Path(__file__).parent / "checkpoint_keys"
CHECKPOINTS = Path(__file__).parents[2] / "benchmarks" / "checkpoints"
PUBLISHED = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "mobilenetv2": "mobilenetv2_100",
    "mobilenetv2_torchvision": "mobilenetv2_100",
    "mobilenetv2_050": "mobilenetv2_050",
    "regnetx_600m": "regnetx_600m",
    "efficientnet_lite0": "efficientnet_lite0",
}
"""Lists of names and shapes in published files, and the network that each belongs to."""
OURS = ("resnet18", "resnet50", "mobilenetv2", "regnetx_600m")
"""Those whose names the definitions have themselves."""


def listed(name: str) -> dict[str, tuple[int, ...]]:
    lines = (KEYS / f"{name}.txt").read_text().splitlines()[1:]
    pairs = (line.split() for line in lines)
    return {key: () if s == "scalar" else tuple(map(int, s.split("x"))) for key, s in pairs}


def random_state(name: str) -> dict[str, Tensor]:
    """Random tensors with the names and shapes of a published file."""
    generator = torch.Generator().manual_seed(1)
    return {
        key: torch.randn(shape, generator=generator) if shape else torch.tensor(5)
        for key, shape in listed(name).items()
    }


@pytest.mark.parametrize("name", OURS)
def test_names_and_shapes_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        state = build(PUBLISHED[name]).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == listed(name)


@pytest.mark.parametrize("file", ["c.safetensors", "c.pth.tar"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_layout_loads(name: str, file: str, tmp_path: Path) -> None:
    """All of them list the tensors in the order of the network, so position tells which is which."""
    state, path = random_state(name), tmp_path / file
    if file.endswith("safetensors"):
        save_file(state, path)
    else:
        torch.save(state, path)
    loaded = make_network(PUBLISHED[name], path).state_dict()
    floats = [value for value in loaded.values() if value.is_floating_point()]
    published = [value for value in state.values() if value.is_floating_point()]
    assert all(map(torch.equal, floats, published))
    assert len(floats) == len(published)


def wrapped(key: str) -> Callable[[dict[str, Tensor]], dict[str, Any]]:
    return lambda state: {"epoch": 3, key: state, "optimizer": {"state": {}, "lr": 0.1}}


@pytest.mark.parametrize(
    "change",
    [
        wrapped("model"),
        wrapped("state_dict"),
        wrapped("model_state"),
        wrapped("net"),
        lambda state: {"state_dict": {"model": state}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: wrapped("state_dict")({f"module.{k}": v for k, v in state.items()}),
        lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
        lambda state: {"epoch": 3, **state},
    ],
)
def test_wrappers_and_prefixes(
    change: Callable[[dict[str, Tensor]], dict[str, Any]], tmp_path: Path
) -> None:
    state = random_state("resnet18")
    torch.save(change(state), tmp_path / "c.pth")
    loaded = make_network("resnet18", tmp_path / "c.pth").state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state if "num_batches" not in key)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {key: value.to(dtype) for key, value in build("resnet18_small").state_dict().items()}
    state = {k: v.long() if "num_batches" in k else v for k, v in state.items()}
    save_file(state, tmp_path / "c.safetensors")
    loaded = make_network("resnet18_small", tmp_path / "c.safetensors")
    assert loaded.fc.weight.dtype == torch.float32
    assert torch.equal(loaded.fc.weight, state["fc.weight"].float())


@pytest.mark.parametrize("name", ["mobilenetv2_small", "regnetx_small", "resnet18_small"])
def test_our_own_checkpoints_load_bit_for_bit(name: str) -> None:
    path = CHECKPOINTS / f"{name}.safetensors"
    loaded = make_network(name, path).state_dict()
    assert all(map(torch.equal, by_name(loaded), by_name(load_file(path))))


def by_name(state: dict[str, Tensor]) -> list[Tensor]:
    return [state[key] for key in sorted(state)]


def test_files_from_before_zip_archives(tmp_path: Path) -> None:
    state = build("resnet18_small").state_dict()
    torch.save(state, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    loaded = make_network("resnet18_small", tmp_path / "c.pth")
    assert torch.equal(loaded.conv1.weight, state["conv1.weight"])


class Payload:
    """What a malicious pickle holds: reading it would run a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_wants_code_is_refused(tmp_path: Path) -> None:
    path, proof = tmp_path / "c.pth", tmp_path / "ran"
    torch.save({"state_dict": {}, "extra": Payload(proof)}, path)
    with pytest.raises(ModelError, match=r"wants to run '\w+\.mkdir' when it is read") as caught:
        load_weights(build("resnet18_small"), path)
    assert not proof.exists()
    assert str(caught.value).count("\n") == 0


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(build("resnet18_small"), tmp_path / "c.pth")
    with pytest.raises(ModelError, match=r"wants to run .* save its state dict alone"):
        load_weights(build("resnet18_small"), tmp_path / "c.pth")


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.pth").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(ModelError, match=r"cannot be read as a file of torch\.save"):
        load_weights(build("resnet18_small"), tmp_path / "c.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["c.pth", "c.safetensors"])
@pytest.mark.parametrize("kept", [0, 60, 3000])
def test_damaged_files(file: str, kept: int, tmp_path: Path) -> None:
    state, path = build("resnet18_small").state_dict(), tmp_path / file
    if file.endswith("safetensors"):
        save_file(state, path)
    else:
        torch.save(state, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match="cannot be read"):
        load_weights(build("resnet18_small"), path)


@pytest.mark.parametrize("path", ["nothing.pth", "nothing.safetensors", "."])
def test_missing_files(path: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        load_weights(build("resnet18_small"), tmp_path / path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"model": {"epoch": 3}}, torch.ones(3)])
def test_files_without_a_state_dict(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(ModelError, match="holds no tensors by name"):
        load_weights(build("resnet18_small"), tmp_path / "c.pth")


@pytest.mark.parametrize(
    ("saved", "wanted", "message"),
    [
        (
            "mobilenetv2_050",
            "mobilenetv2_100",
            r"does not fit mobilenetv2_100: 25\d of 314 tensors differ, "
            r"'features.0.0.weight' is 16x3x3x3 there and 32x3x3x3 in the network, "
            r"'features.0.1.weight' is 16 there and 32 in the network",
        ),
        (
            "resnet18",
            "resnet50",
            r"does not fit resnet50: \d+ of 320 tensors differ, "
            r"'layer1.0.conv1.weight' is 64x64x3x3 there and 64x64x1x1 in the network",
        ),
        (
            "resnet18",
            "regnetx_600m",
            r"'stem.conv.weight' is absent there and 32x3x3x3 in the network, .* "
            r"'conv1.weight' is 64x3x7x7 there and absent in the network; check",
        ),
    ],
)
def test_wrong_width_or_network(saved: str, wanted: str, message: str, tmp_path: Path) -> None:
    torch.save({"model": random_state(saved)}, tmp_path / "c.pth")
    with pytest.raises(ModelError, match=message):
        make_network(wanted, tmp_path / "c.pth")


def test_wrong_number_of_classes(tmp_path: Path) -> None:
    torch.save(random_state("resnet18"), tmp_path / "c.pth")
    message = r"2 of 122 tensors differ, 'fc.weight' is 1000x512 there and 10x512 in the network"
    with pytest.raises(ModelError, match=message):
        make_network("resnet18", tmp_path / "c.pth", num_classes=10)


def test_integers_in_place_of_weights(tmp_path: Path) -> None:
    state = build("resnet18_small").state_dict()
    state["fc.weight"] = state["fc.weight"].to(torch.int8)
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(ModelError, match=r"'fc\.weight' is 10x128 int8 there and 10x128 in the"):
        load_weights(build("resnet18_small"), tmp_path / "c.pth")


def test_the_demo_checkpoint_has_the_older_names_of_mobilenetv2() -> None:
    path = Path(mrecg.__file__).parent / "demo" / "mobilenetv2_small.safetensors"
    state = load_file(path)
    loaded = make_network("mobilenetv2_small", path)
    assert torch.equal(loaded.classifier[1].weight, state["classifier.weight"])
