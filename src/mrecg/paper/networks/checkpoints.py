"""Weights from checkpoint files, under the tensor names of several projects.

A checkpoint is data: pickles are read with `weights_only=True`, so none can run code.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mrecg.errors import ModelError, quoted, reason_of
from mrecg.paper.networks.checkpoint_keys import KEY_RENAMINGS
from mrecg.reading import require_regular

__all__ = ["load_weights"]

_WRAPPERS = ("model", "state_dict", "model_state", "net")
"""Names under which training scripts keep the state dict; `model_state` is pycls'."""
_MOST_WRAPPERS = 8
_MOST_NAMED = 3
"""How many of the network's tensors a message names, besides one that only the file has."""


def load_weights(model: nn.Module, path: Path, name: str | None = None) -> None:
    """Copy the weights in the file `path` into `model`.

    Args:
        model: any network; ours take all names under which their checkpoints are published.
        path: `.safetensors`, or else a file of `torch.save` (`.pth`, `.pth.tar`, `.pt`, `.ckpt`): a state dict, bare
            or wrapped in a dictionary, with or without `module.` before its names. Half precision becomes the model's.
        name: of the network, for messages; its class when absent.

    Raises:
        ModelError: the file cannot be read, holds code or no tensors, or its names or shapes are not the model's.
    """
    found = _tensors(path)
    expected = model.state_dict()
    candidates = [{rename(key): value for key, value in found.items()} for rename in KEY_RENAMINGS]
    # The renaming under which the fewest tensors differ is also the one whose differences help the user.
    state = min(candidates, key=lambda candidate: len(_differing(expected, candidate)))
    differing = _differing(expected, state)
    if differing:
        raise ModelError(
            f"The checkpoint {path} does not fit {name or type(model).__name__}: {len(differing)} of "
            f"{len(expected | state)} tensors differ, {_first_of(differing, expected, state)}; "
            "check the network's name, its width and its number of classes."
        )
    model.load_state_dict(state, strict=False)  # num_batches_tracked may be absent


def _tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file by name, without wrappers and the prefix of `DataParallel`."""
    content = _read(path)
    for _ in range(_MOST_WRAPPERS):  # one may hold itself
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    tensors = {
        str(key).removeprefix("module."): value
        for key, value in content.items()
        if isinstance(value, Tensor)
    }
    if not tensors:
        raise ModelError(
            f"The checkpoint {path} holds no tensors by name; expected a state dict, bare or under "
            f"one of: {', '.join(_WRAPPERS)}."
        )
    for name, tensor in tensors.items():
        if (kind := _without_values(tensor)) is not None:
            raise ModelError(
                f"The checkpoint {path} holds {quoted(name)} as a {kind} tensor, expected a dense one with values; "
                "convert it before it is saved."
            )
    return tensors


def _without_values(tensor: Tensor) -> str | None:
    """Return the kind of a tensor whose numbers cannot be copied as they are, `None` of any other."""
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_meta:
        return "meta"
    if tensor.is_nested:
        return "nested"
    return "quantized" if tensor.is_quantized else None


def _read(path: Path) -> Mapping[Any, Any]:
    """Return the dictionary in a file; anything else counts as an empty one."""
    try:
        require_regular(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # torch warns about what it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The checkpoint {path} cannot be read: {reason_of(error)}.") from error
    except Exception as error:  # unpickling damaged bytes raises any exception
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is not None:
            raise ModelError(
                f"The checkpoint {path} wants to run '{code[1]}' when it is read, which is refused; "
                "save its state dict alone, as safetensors or with torch.save(model.state_dict(), path)."
            ) from error
        raise ModelError(
            f"The checkpoint {path} cannot be read as a file of torch.save; "
            "it is damaged or something else."
        ) from error
    return content if isinstance(content, Mapping) else {}


def _differing(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """List names that only one side has or whose tensors do not match, in the network's order first.

    Checkpoints from before PyTorch 0.4.1 lack the batch norms' counters, which inference does not need.
    """
    return [
        key
        for key in [*expected, *(key for key in found if key not in expected)]
        if _described(expected.get(key)) != _described(found.get(key))
        and not (key.endswith(".num_batches_tracked") and key not in found)
    ]


def _first_of(
    differing: list[str], expected: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> str:
    named = [key for key in differing if key in expected][:_MOST_NAMED]
    named += [key for key in differing if key not in expected][:1]
    return ", ".join(
        f"{quoted(key)} is {_described(found.get(key))} there and {_described(expected.get(key))} in the network"
        for key in named
    )


def _described(tensor: Tensor | None) -> str:
    """Describe shape and type; floating-point types are converted, so they are left out."""
    if tensor is None:
        return "absent"
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return shape + kind
