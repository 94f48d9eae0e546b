"""Comparing states of quantizers."""

import torch
from torch import Tensor

from mrecg.quantizers.state import QuantizerState


def tensors_of(state: QuantizerState) -> dict[str, Tensor]:
    """Return all tensors of a state by what they are."""
    found = {f"{name}.codes": one.codes for name, one in state.weights.items()}
    scalings = {name: one.scaling for name, one in state.weights.items()} | dict(state.activations)
    for name, scaling in scalings.items():
        found |= {f"{name}.scale": scaling.scale, f"{name}.zero_point": scaling.zero_point}
    return found


def copy_of(state: QuantizerState) -> dict[str, Tensor]:
    """Return copies of all tensors of a state, for a look at it later."""
    return {name: tensor.clone() for name, tensor in tensors_of(state).items()}


def are_equal(state: QuantizerState, other: QuantizerState | dict[str, Tensor]) -> bool:
    """Return whether two states, or a state and copies of one, are equal to the bit."""
    wanted = tensors_of(other) if isinstance(other, QuantizerState) else other
    found = tensors_of(state)
    same = found.keys() == wanted.keys()
    return same and all(torch.equal(found[name], wanted[name]) for name in found)
