"""Network definitions, named as the field names them; their parameters are named as their checkpoints do."""

from mrecg.paper.networks.checkpoints import load_weights
from mrecg.paper.networks.names import has_own_factory, network
from mrecg.paper.networks.registry import NETWORKS, Network, build, published_top1

__all__ = [
    "NETWORKS",
    "Network",
    "build",
    "has_own_factory",
    "load_weights",
    "network",
    "published_top1",
]
