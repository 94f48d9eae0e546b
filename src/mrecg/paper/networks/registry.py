"""The networks that mrecg defines itself, and the images that each takes."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import nn

from mrecg.data import Preprocessing
from mrecg.data.fashion_mnist import PREPROCESSING
from mrecg.errors import ModelError, did_you_mean
from mrecg.paper.networks.efficientnet_lite import EfficientNetLite0
from mrecg.paper.networks.mobilenetv2 import make_mobilenetv2, make_mobilenetv2_small
from mrecg.paper.networks.regnet import WIDTH_RULES, make_regnetx, make_regnetx_small
from mrecg.paper.networks.resnet import IMAGENET_DEPTHS, make_resnet, make_resnet18_small

__all__ = ["NETWORKS", "Network", "build"]


class Network(NamedTuple):
    """Describe how a network is made and what images it takes.

    Attributes:
        factory: makes the network with random weights; takes the number of classes.
        num_classes: those of its published weights.
        preprocessing: of the images that it is evaluated on.
    """

    factory: Callable[[int], nn.Module]
    num_classes: int = 1000
    preprocessing: Preprocessing = Preprocessing()


_FACTORIES: dict[str, Callable[[int], nn.Module]] = {
    **{f"resnet{depth}": partial(make_resnet, depth) for depth in IMAGENET_DEPTHS},
    **{
        f"mobilenetv2_{percent:03}": partial(make_mobilenetv2, percent / 100)
        for percent in (140, 100, 75, 50, 35)
    },
    **{f"regnetx_{size}m": partial(make_regnetx, size) for size in WIDTH_RULES},
}
_for_fashion_mnist = partial(Network, num_classes=10, preprocessing=PREPROCESSING)

NETWORKS: dict[str, Network] = {
    **{name: Network(factory) for name, factory in _FACTORIES.items()},
    "efficientnet_lite0": Network(
        EfficientNetLite0,
        # TensorFlow's scaling of the original training: (pixel - 127) / 128, bicubic.
        preprocessing=Preprocessing(
            mean=(127 / 255,) * 3, std=(128 / 255,) * 3, interpolation="bicubic"
        ),
    ),
    "mobilenetv2_small": _for_fashion_mnist(make_mobilenetv2_small),
    "regnetx_small": _for_fashion_mnist(make_regnetx_small),
    "resnet18_small": _for_fashion_mnist(make_resnet18_small),
}


def build(name: str, num_classes: int | None = None) -> nn.Module:
    """Build the network called `name` with random weights, in evaluation mode.

    Args:
        name: a key of `NETWORKS`.
        num_classes: outputs of the classifier; as many as the published weights have when absent.

    Raises:
        ModelError: there is no network of that name, or fewer classes than 1.
    """
    if name not in NETWORKS:
        raise ModelError(f"There is no network '{name}'{did_you_mean(name, NETWORKS)}")
    found = NETWORKS[name]
    if num_classes is not None and num_classes < 1:
        raise ModelError(f"The network {name} needs at least 1 class, got {num_classes}.")
    return found.factory(num_classes or found.num_classes).eval()
