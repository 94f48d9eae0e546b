"""Network definitions, named as their checkpoints name them."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from mrecg.errors import ModelError, did_you_mean
from mrecg.zoo.mobilenetv2 import mobilenetv2_small
from mrecg.zoo.regnet import regnetx_small
from mrecg.zoo.resnet import resnet18_small

__all__ = ["NETWORKS", "build", "load_weights", "published_top1"]

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mobilenetv2_small": mobilenetv2_small,
    "regnetx_small": regnetx_small,
    "resnet18_small": resnet18_small,
}


def build(name: str) -> nn.Module:
    """The network called `name`, with random weights, in evaluation mode.

    Raises:
        ModelError: there is no network of that name.
    """
    if name not in NETWORKS:
        raise ModelError(f"There is no network '{name}'{did_you_mean(name, NETWORKS)}.")
    return NETWORKS[name]().eval()


def published_top1(name: str) -> float | None:
    """The published top-1 accuracy of the float network `name` on ImageNet in percent, where there is one."""
    return None


def load_weights(model: nn.Module, path: Path) -> None:
    """Copy the weights in the safetensors file `path` into `model`.

    Raises:
        ModelError: the file cannot be read, or its names or shapes are not the model's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"The checkpoint {path} cannot be read as safetensors: {error}."
        ) from error
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if expected != found:
        name = sorted(key for key in expected | found if expected.get(key) != found.get(key))[0]
        raise ModelError(
            f"The checkpoint {path} does not fit {type(model).__name__}: '{name}' has shape "
            f"{found.get(name, 'nothing')} there and {expected.get(name, 'nothing')} in the network."
        )
    model.load_state_dict(state)
