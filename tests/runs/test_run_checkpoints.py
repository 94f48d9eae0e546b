"""An interrupted run goes on where it stopped, to the same bits; what is damaged is done again."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import mrecg
import toys
from mrecg.optimize.checkpoints import GroupCheckpoint, NetworkCheckpoint
from mrecg.quantizers.grid import Scaling
from mrecg.quantizers.state import QuantizerState
from mrecg.quantizers.weight import WeightState
from mrecg.runs.checkpoints import FolderCheckpoints, describe_inputs
from mrecg.runs.folder import QuantizedModel
from quick import quick

INPUTS = {"recipe": "a", "images": "b"}
RECIPES = {
    "rtn": quick("w4a4-rtn"),
    "mrecg": quick("w2a4-qdrop-mrecg", network__steps=6),
    "scales": quick("w2a4-brecq", network__learn="scales", network__steps=6),
    "capacity": quick("w2a4-qdrop-mrecg", plan__join="capacity", plan__count=1),
}


class KilledError(Exception):
    """Stands for the end of the process."""


class Mortal(FolderCheckpoints):
    """Dies at one of its writes, before or after the file is there."""

    def __init__(self, place: Path, writes: int, after: bool) -> None:
        super().__init__(place, INPUTS)
        self.left, self.after = writes, after

    def _write(self, name: str, contents: bytes) -> None:
        if name != "inputs.json" and hasattr(self, "left"):
            self.left -= 1
            if self.left < 0 and not self.after:
                raise KilledError
            super()._write(name, contents)
            if self.left < 0:
                raise KilledError
        else:
            super()._write(name, contents)


class Counting(FolderCheckpoints):
    """Counts what it gives back and what it is given."""

    def __init__(self, place: Path) -> None:
        super().__init__(place, INPUTS)
        self.given_back = self.kept = 0

    def group(self, phase: str, index: int) -> GroupCheckpoint | None:
        found = super().group(phase, index)
        self.given_back += found is not None
        return found

    def keep_group(self, phase: str, index: int, found: GroupCheckpoint) -> None:
        self.kept += 1
        super().keep_group(phase, index, found)


def quantize(name: str, checkpoints: FolderCheckpoints | None = None) -> QuantizedModel:
    prepared = mrecg.prepare(toys.make("residual"), toys.images(32), recipe=RECIPES[name])
    return prepared.quantize(checkpoints=checkpoints)


def bits(quantized: QuantizedModel) -> dict[str, Tensor]:
    return {**quantized.program.state_dict, "answers": quantized.model(toys.images(8)).detach()}


def assert_same(one: QuantizedModel, other: QuantizedModel) -> None:
    a, b = bits(one), bits(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    timeless = {"seconds": {}, "groups": (), "network": None}
    assert one.record.model_copy(update=timeless) == other.record.model_copy(update=timeless)
    for ours, theirs in zip(one.record.groups, other.record.groups, strict=True):
        assert ours.model_copy(update={"seconds": 0.0}) == theirs.model_copy(
            update={"seconds": 0.0}
        )
    stages = [run.record.network for run in (one, other)]
    ours, theirs = (stage and stage.model_copy(update={"seconds": 0.0}) for stage in stages)
    assert ours == theirs


@pytest.mark.parametrize(
    ("name", "every"),
    [("mrecg", 5), *(pytest.param(name, 1, marks=pytest.mark.slow) for name in RECIPES)],
)
def test_a_run_that_dies_at_any_write_goes_on_to_the_same_bits(
    name: str, every: int, tmp_path: Path
) -> None:
    whole = quantize(name)
    for writes in range(0, 1000, every):
        place = tmp_path / str(writes)
        place.mkdir()
        try:
            found = quantize(name, Mortal(place, writes, after=bool(writes % 2)))
        except KilledError:
            assert_same(quantize(name, FolderCheckpoints(place, INPUTS)), whole)
        else:
            assert_same(found, whole)
            break
    assert 2 * every <= writes < 1000


def test_nothing_finished_is_done_again(tmp_path: Path) -> None:
    place = tmp_path
    first, again = Counting(place), Counting(place)
    whole = quantize("mrecg", first)
    assert_same(quantize("mrecg", again), whole)
    assert (first.given_back, again.kept) == (0, 0)
    assert again.given_back == first.kept > 0


@pytest.mark.parametrize("damage", ["missing", "short", "changed", "empty", "link", "folder"])
def test_a_damaged_file_costs_its_group(damage: str, tmp_path: Path) -> None:
    place = tmp_path
    first = Counting(place)
    whole = quantize("mrecg", first)
    file = sorted(place.glob("tune-*"))[1]
    contents = file.read_bytes()
    file.unlink()
    if damage == "short":
        file.write_bytes(contents[:-7])
    elif damage == "changed":
        file.write_bytes(contents[:-1] + bytes([contents[-1] ^ 1]))
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(contents)
        file.symlink_to(tmp_path / "elsewhere")
    elif damage == "folder":
        file.mkdir()
    again = Counting(place)
    if damage == "folder":
        with pytest.raises(mrecg.MrecgError, match=r"cannot be written.*resume"):
            quantize("mrecg", again)
        return
    assert_same(quantize("mrecg", again), whole)
    assert (again.kept, again.given_back) == (1, first.kept - 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_come_back_in_their_layout(layout: torch.memory_format, tmp_path: Path) -> None:
    codes = torch.randint(0, 4, (4, 3, 2, 2)).float().contiguous(memory_format=layout)
    scaling = Scaling(torch.rand(4, 1, 1, 1), torch.zeros(4, 1, 1, 1))
    state = QuantizerState(
        {"a": WeightState(codes, scaling)}, {"b": Scaling(torch.tensor(0.5), torch.tensor(1.0))}
    )
    place = tmp_path
    checkpoints = FolderCheckpoints(place, INPUTS)
    checkpoints.keep_group("tune", 0, GroupCheckpoint(state, (), (), None))
    read = checkpoints.group("tune", 0)
    checkpoints.keep_network(
        NetworkCheckpoint(3, (codes,), {"steps": torch.tensor(3.0)}, ((3, 0.5),))
    )
    network = checkpoints.network()
    assert read is not None
    assert network is not None
    assert torch.equal(read.state.weights["a"].codes, codes)
    for one in (read.state.weights["a"].codes, network.variables[0]):
        assert one.stride() == codes.stride()
    assert read.state.activations["b"] == (torch.tensor(0.5), torch.tensor(1.0))
    assert (network.step, network.moments["steps"], network.curve) == (3, 3, ((3, 0.5),))


@pytest.mark.parametrize("moment", ["0.0.mean", "0.7.mean"])
def test_a_checkpoint_of_another_network_is_as_good_as_none(moment: str, tmp_path: Path) -> None:
    """Somebody who knows the hash can write one; the second has the variables of this network."""
    kept = FolderCheckpoints(tmp_path, INPUTS)
    whole = quantize("scales", kept)
    own = kept.network()
    assert own is not None
    variables = (torch.zeros(2), *own.variables[1:]) if moment == "0.0.mean" else own.variables
    kept.keep_network(NetworkCheckpoint(3, variables, own.moments | {moment: torch.zeros(1)}, ()))
    assert_same(quantize("scales", kept), whole)


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    place = tmp_path
    FolderCheckpoints(place, INPUTS)
    with pytest.raises(mrecg.MrecgError, match="was started with another images;"):
        FolderCheckpoints(place, INPUTS | {"images": "c"})
    (place / "inputs.json").write_text("[[[")
    with pytest.raises(mrecg.MrecgError, match="was started with another"):
        FolderCheckpoints(place, INPUTS)


def test_inputs_are_told_apart() -> None:
    model, images = toys.make("residual"), toys.images(4)
    found = describe_inputs(model, images, recipe="a")
    assert found == describe_inputs(toys.make("residual"), images.clone(), recipe="a")
    assert describe_inputs(model, images + 1e-6, recipe="a")["images"] != found["images"]
    assert describe_inputs(model, images, recipe="b")["recipe"] != found["recipe"]
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    assert describe_inputs(model, images, recipe="a")["network"] != found["network"]
