"""Checkpoints in a folder: what an unfinished run keeps.

    inputs.json              what the run was started with, as hashes
    tune-0003.safetensors    a finished group: what it added to the state, its records
    network.safetensors      the network as a whole, now and then

Every file is written whole or not at all and holds the hash of its contents: one that is damaged is as good as missing.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mrecg import distributed
from mrecg.errors import RunError, reason_of
from mrecg.graph.inputs import ModelInputs, NamedInputs
from mrecg.optimize.checkpoints import Checkpoints, GroupCheckpoint, NetworkCheckpoint
from mrecg.quantizers.grid import Scaling
from mrecg.quantizers.state import QuantizerState
from mrecg.quantizers.weight import WeightState
from mrecg.records.plan import Join
from mrecg.records.record import GroupRecord, UnitRecord
from mrecg.writing import replace_file

__all__ = ["INPUTS", "FolderCheckpoints", "describe_inputs", "hash_of_images"]

INPUTS = "inputs.json"
"""Makes a run one that can be resumed."""
_NETWORK = "network"
_NOTES, _HASH = "notes", "sha256"


def describe_inputs(model: nn.Module, images: ModelInputs, **others: str) -> dict[str, str]:
    """Return hashes of all that decides the bits of a result, by what it is.

    Args:
        model: the float network.
        images: the inputs for those that calibrate.
        others: text that decides, too, such as the recipe.
    """
    network = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        network.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        network.update(_bytes(tensor))
    found = {"network": network.hexdigest()}
    found["images"] = hash_of_images(images)
    for name, text in others.items():
        found[name] = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return found


def hash_of_images(images: ModelInputs) -> str:
    """Return the hash under which a record keeps the images that calibrated, or the inputs for them."""
    given = hashlib.blake2b(digest_size=16)
    named = images.tensors if isinstance(images, NamedInputs) else {"": images}
    for name, tensor in named.items():
        given.update(name.encode())
        given.update(_bytes(tensor))
    return given.hexdigest()


class FolderCheckpoints(Checkpoints):
    """Keep checkpoints in a folder; the caller holds its lock.

    Args:
        place: the folder.
        inputs: from `describe_inputs`.

    Raises:
        RunError: the run there was started with something else.
    """

    def __init__(self, place: Path, inputs: Mapping[str, str]) -> None:
        self._place = place
        path = place / INPUTS
        if not path.exists():
            self._write(INPUTS, json.dumps(dict(inputs), indent=2).encode())
        try:
            known = json.loads(path.read_bytes())
            differing = sorted(
                name for name in {*known, *inputs} if known.get(name) != inputs.get(name)
            )
        except (OSError, ValueError, AttributeError, RecursionError, TypeError):
            # Without it nothing tells whose the checkpoints are.
            differing = ["inputs.json"]
        if differing:
            raise RunError(
                f"The unfinished run in {place.parent} was started with another {' and another '.join(differing)}; "
                f"go on with the same, or name another folder."
            )

    def group(self, phase: str, index: int) -> GroupCheckpoint | None:
        """Return a group that is finished, `None` where there is none or its file is damaged."""
        found = self._read(f"{phase}-{index:04d}")
        if found is None:
            return None
        notes, tensors = found
        try:
            return GroupCheckpoint(
                state=_state(notes["steps"], tensors),
                units=tuple(UnitRecord.model_validate_json(one) for one in notes["units"]),
                groups=tuple(GroupRecord.model_validate_json(one) for one in notes["groups"]),
                join=notes["join"] and Join.model_validate_json(notes["join"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError, ValidationError):
            return None

    def keep_group(self, phase: str, index: int, found: GroupCheckpoint) -> None:
        """Keep a finished group.

        Raises:
            RunError: it cannot be written.
        """
        notes = {
            "steps": dict(found.state.steps),
            "units": [one.model_dump_json() for one in found.units],
            "groups": [one.model_dump_json() for one in found.groups],
            "join": found.join and found.join.model_dump_json(),
        }
        self._keep(f"{phase}-{index:04d}", notes, _tensors(found.state))

    def network(self) -> NetworkCheckpoint | None:
        """Return where the optimization of the whole was, `None` where it had not begun or the file is damaged."""
        found = self._read(_NETWORK)
        if found is None:
            return None
        notes, tensors = found
        moments = {
            k.removeprefix("moment "): v for k, v in tensors.items() if k.startswith("moment ")
        }
        try:
            variables = tuple(tensors[f"variable {i}"] for i in range(len(tensors) - len(moments)))
            curve = tuple((int(step), float(loss)) for step, loss in notes["curve"])
            return NetworkCheckpoint(int(notes["step"]), variables, moments, curve)
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    def keep_network(self, found: NetworkCheckpoint) -> None:
        """Keep where the optimization of the whole is.

        Raises:
            RunError: it cannot be written.
        """
        tensors = {f"variable {i}": one for i, one in enumerate(found.variables)}
        tensors |= {f"moment {name}": one for name, one in found.moments.items()}
        self._keep(_NETWORK, {"step": found.step, "curve": found.curve}, tensors)

    def _keep(self, name: str, notes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        if distributed.is_first():
            # The layout in memory decides which kernel a convolution takes, and so the last bits.
            layouts = {key: _layout(one) for key, one in tensors.items()}
            plain = {key: _rows(one) for key, one in tensors.items()}
            text = json.dumps({**notes, "layouts": layouts})
            contents = save(plain, {_NOTES: text, _HASH: _hash(plain, text)})
            self._write(f"{name}.safetensors", contents)
        distributed.wait()

    def _read(self, name: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        path = self._place / f"{name}.safetensors"
        if path.is_symlink() or not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                said = file.metadata() or {}
                plain = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            if said[_HASH] != _hash(plain, said[_NOTES]):
                return None
            notes = json.loads(said[_NOTES])
            layouts = notes.pop("layouts")
            return notes, {key: _with_layout(one, layouts[key]) for key, one in plain.items()}
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError):
            return None

    def _write(self, name: str, contents: bytes) -> None:
        try:
            replace_file(self._place / name, contents)
        except OSError as error:
            raise RunError(
                f"The run folder {self._place.parent} cannot be written: {reason_of(error)}; what is finished stays, "
                "make room and resume."
            ) from error


def _tensors(state: QuantizerState) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, (codes, scaling) in state.weights.items():
        found |= {f"weight codes {name}": codes}
        found |= {f"weight scale {name}": scaling.scale, f"weight zero {name}": scaling.zero_point}
    for name, scaling in state.activations.items():
        found |= {f"activation scale {name}": scaling.scale}
        found |= {f"activation zero {name}": scaling.zero_point}
    return found


def _state(steps: Mapping[str, int], tensors: Mapping[str, Tensor]) -> QuantizerState:
    def scaling(kind: str, name: str) -> Scaling:
        return Scaling(tensors[f"{kind} scale {name}"], tensors[f"{kind} zero {name}"])

    def names(prefix: str) -> list[str]:
        return [key.removeprefix(prefix) for key in tensors if key.startswith(prefix)]

    return QuantizerState(
        {
            name: WeightState(tensors[f"weight codes {name}"], scaling("weight", name))
            for name in names("weight codes ")
        },
        {name: scaling("activation", name) for name in names("activation scale ")},
        steps,
    )


def _rows(tensor: Tensor) -> Tensor:
    """Return a copy of its own on the CPU, in rows."""
    return tensor.detach().cpu().contiguous().clone()


def _layout(tensor: Tensor) -> list[int]:
    """Return the axes from the outermost to the innermost in memory."""
    strides = tensor.stride()
    return sorted(range(tensor.ndim), key=lambda axis: (-strides[axis], axis))


def _with_layout(tensor: Tensor, layout: list[int]) -> Tensor:
    """Return the tensor with the axes in memory as they were."""
    back = [layout.index(axis) for axis in range(tensor.ndim)]
    return tensor.permute(layout).contiguous().permute(back)


def _hash(tensors: Mapping[str, Tensor], text: str) -> str:
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(_bytes(tensors[name]))
    return found.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor in rows."""
    rows = tensor.detach().cpu().contiguous().view(-1)
    return rows.view(torch.uint8).numpy().data if rows.numel() else memoryview(b"")
