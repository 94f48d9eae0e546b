"""The tensors of a run: a file of safetensors in which codes are packed to their bits."""

import math
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mrecg.errors import RunError, first_line
from mrecg.quantizers.packing import pack, unpack
from mrecg.runs.bounds import CODE_DTYPES
from mrecg.runs.stored_graph import StoredTensor

__all__ = ["largest_file", "read_tensors", "write_tensors"]

_LARGEST_HEADER = 100_000_000
"""Bytes; safetensors reads no larger one."""


def largest_file(stored: Mapping[str, StoredTensor]) -> int:
    """Return the number of bytes that the file of these tensors has at most."""
    elements = sum(math.prod(tensor.shape) for tensor in stored.values())
    return min(elements * torch.float64.itemsize + _LARGEST_HEADER, 1 << 40)


def write_tensors(stored: Mapping[str, StoredTensor], tensors: Mapping[str, Tensor]) -> bytes:
    """Return the contents of the file that holds `tensors`."""
    contents = {}
    for name, spec in stored.items():
        tensor = tensors[name].detach().cpu().contiguous()
        # A clone: safetensors refuses tensors that share memory.
        contents[name] = tensor.clone() if spec.grid is None else pack(tensor, *spec.grid)
    return save(contents)


def read_tensors(stored: Mapping[str, StoredTensor], contents: bytes) -> dict[str, Tensor]:
    """Return the tensors in the contents of a file; each has the shape and type that is stored for it.

    Args:
        stored: what is stored about them, of which `check_sizes` refused nothing.
        contents: of the file.

    Raises:
        RunError: the file and what is stored about it disagree; the sentence is to follow the name of the run.
    """
    try:
        found = load(contents)
    except (SafetensorError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise RunError(f"its tensors cannot be read ({first_line(error)})") from error
    if set(found) != set(stored):
        odd = sorted(set(found) ^ set(stored))[0]
        raise RunError(f"its graph and its tensors disagree on {odd[:100]!r}")
    return {name: _checked(name, spec, found[name]) for name, spec in stored.items()}


def _checked(name: str, spec: StoredTensor, tensor: Tensor) -> Tensor:
    if spec.grid is not None:
        return _unpacked(name, spec, spec.grid, tensor)
    found = (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
    if found != (spec.dtype, spec.shape):
        raise RunError(
            f"'{name}' is {found[0]} of the shape {found[1]}, expected {spec.dtype[:100]} of {spec.shape}"
        )
    return tensor


def _unpacked(name: str, spec: StoredTensor, grid: tuple[int, int], tensor: Tensor) -> Tensor:
    low, high = grid
    if math.prod(spec.shape) > 8 * tensor.numel():  # before memory is asked for
        raise RunError(f"'{name}' has {tensor.numel()} bytes for codes of the shape {spec.shape}")
    try:
        codes = unpack(tensor, low, high, spec.shape, CODE_DTYPES[spec.dtype])
    except (ValueError, RuntimeError, OverflowError) as error:
        raise RunError(f"'{name}' cannot be unpacked ({error})") from error
    if codes.numel() and not low <= int(codes.min()) <= int(codes.max()) <= high:
        raise RunError(f"'{name}' holds codes outside of {low} to {high}")
    return codes
