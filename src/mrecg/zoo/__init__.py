"""Network definitions, named as the field names them; their parameters are named as their checkpoints do."""

from mrecg.zoo.checkpoints import load_weights
from mrecg.zoo.names import has_own_factory, network
from mrecg.zoo.registry import NETWORKS, Network, build, published_top1

__all__ = [
    "NETWORKS",
    "Network",
    "build",
    "has_own_factory",
    "load_weights",
    "network",
    "published_top1",
]
