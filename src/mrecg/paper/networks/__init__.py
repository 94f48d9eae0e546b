"""Network definitions under the names of the field; parameters are named as in their published checkpoints."""

from mrecg.paper.networks.checkpoints import load_weights
from mrecg.paper.networks.lookup import has_own_weights, make_network
from mrecg.paper.networks.registry import NETWORKS, Network, build

__all__ = [
    "NETWORKS",
    "Network",
    "build",
    "has_own_weights",
    "load_weights",
    "make_network",
]
