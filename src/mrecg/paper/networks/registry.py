"""The networks that mrecg defines itself, and what is published about them."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import nn

from mrecg.data import Preprocessing
from mrecg.data.fashion_mnist import MEAN, STANDARD_DEVIATION
from mrecg.errors import ModelError, did_you_mean
from mrecg.paper.networks.efficientnet_lite import EfficientNetLite0
from mrecg.paper.networks.mobilenetv2 import mobilenetv2, mobilenetv2_small
from mrecg.paper.networks.regnet import RULES, regnetx, regnetx_small
from mrecg.paper.networks.resnet import IMAGENET_DEPTHS, resnet, resnet18_small

__all__ = ["NETWORKS", "Network", "build", "published_top1"]


class Network(NamedTuple):
    """How a network is made, what it takes, and what it is known to reach.

    Attributes:
        factory: a number of classes → the network with random weights.
        num_classes: those of its published weights.
        preprocessing: of the images that it is evaluated on.
        top1: published accuracy in percent of the weights that the paper's table starts from.
    """

    factory: Callable[[int], nn.Module]
    num_classes: int = 1000
    preprocessing: Preprocessing = Preprocessing()
    top1: float | None = None


_TOP1 = {
    "resnet18": 71.01,
    "resnet50": 76.63,
    "mobilenetv2_100": 72.20,
    "mobilenetv2_075": 69.95,
    "mobilenetv2_050": 64.60,
    "mobilenetv2_035": 60.08,
    "regnetx_600m": 73.52,
}
"""The row "Full Prec." of the authors' table."""

_FACTORIES: dict[str, Callable[[int], nn.Module]] = {
    **{f"resnet{depth}": partial(resnet, depth) for depth in IMAGENET_DEPTHS},
    **{
        f"mobilenetv2_{percent:03}": partial(mobilenetv2, percent / 100)
        for percent in (140, 100, 75, 50, 35)
    },
    **{f"regnetx_{size}m": partial(regnetx, size) for size in RULES},
}
_for_fashion_mnist = partial(
    Network,
    num_classes=10,
    preprocessing=Preprocessing(
        resize=28, crop=28, channels=1, mean=(MEAN,), deviation=(STANDARD_DEVIATION,)
    ),
)

NETWORKS: dict[str, Network] = {
    **{name: Network(factory, top1=_TOP1.get(name)) for name, factory in _FACTORIES.items()},
    "efficientnet_lite0": Network(
        EfficientNetLite0,
        preprocessing=Preprocessing(
            mean=(127 / 255,) * 3, deviation=(128 / 255,) * 3, interpolation="bicubic"
        ),
    ),
    "mobilenetv2_small": _for_fashion_mnist(mobilenetv2_small),
    "regnetx_small": _for_fashion_mnist(regnetx_small),
    "resnet18_small": _for_fashion_mnist(resnet18_small),
}


def build(name: str, num_classes: int | None = None) -> nn.Module:
    """The network called `name`, with random weights, in evaluation mode.

    Args:
        name: a key of `NETWORKS`.
        num_classes: outputs of the classifier; as many as the published weights have when absent.

    Raises:
        ModelError: there is no network of that name, or no classes.
    """
    if name not in NETWORKS:
        raise ModelError(f"There is no network '{name}'{did_you_mean(name, NETWORKS)}.")
    found = NETWORKS[name]
    if num_classes is not None and num_classes < 1:
        raise ModelError(f"The network {name} needs at least 1 class, got {num_classes}.")
    return found.factory(num_classes or found.num_classes).eval()


def published_top1(name: str) -> float | None:
    """The published top-1 accuracy of the float network `name` in percent, where there is one."""
    return NETWORKS[name].top1 if name in NETWORKS else None
