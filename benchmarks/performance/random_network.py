"""Networks and images of random numbers, which change no timing."""

import torch
from torch import Tensor, nn

from mrecg.paper.networks import NETWORKS, build

__all__ = ["random_network"]


def random_network(name: str, side: int, images: int) -> tuple[nn.Module, Tensor]:
    """Return a network and so many square images of `side` pixels, the same ones every time."""
    torch.manual_seed(0)
    shape = (images, NETWORKS[name].preprocessing.channels, side, side)
    return build(name), torch.randn(shape, generator=torch.Generator().manual_seed(0))
