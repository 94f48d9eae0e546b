"""Networks by name: our own definitions, timm's, torchvision's, an ONNX file, or the caller's factory.

resnet18                   one of `NETWORKS`
timm:NAME                  one of timm's, without its weights
torchvision:NAME           one of torchvision's classifiers, without its weights
onnx:FILE                  the network of an ONNX file, with its weights
package.module:factory     what the caller's function returns
"""

import importlib
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from mrecg.errors import ModelError
from mrecg.paper.networks.checkpoints import load_weights
from mrecg.paper.networks.registry import build

__all__ = ["has_own_weights", "import_own", "make_network"]


def make_network(
    name: str,
    weights: Path | None = None,
    num_classes: int | None = None,
    shape: tuple[int, ...] | None = None,
) -> nn.Module:
    """Make the network called `name`, in evaluation mode; nothing is downloaded.

    Args:
        name: a key of `NETWORKS`, `timm:NAME`, `torchvision:NAME`, `onnx:FILE` or `package.module:factory`.
        weights: a checkpoint to load; without one the weights are random, or what the factory sets.
        num_classes: outputs of the classifier; a factory gets it as its argument of that name.
        shape: of an image, for an ONNX file that leaves it open.

    Raises:
        ModelError: there is no such network, its package is missing, it cannot be built, or the checkpoint does not fit.
    """
    source, separator, inner = name.partition(":")
    if source == _ONNX and separator:
        return _from_file(inner, weights, shape)
    if not separator:
        model = build(name, num_classes)
    else:
        arguments = {} if num_classes is None else {"num_classes": num_classes}
        model = _LIBRARIES.get(source, _own)(name, inner, arguments).eval()
    if weights is not None:
        load_weights(model, weights, name)
    return model


def has_own_weights(name: str) -> bool:
    """Return whether `name` is an ONNX file or the caller's own factory, which may set weights itself."""
    source, separator, _ = name.partition(":")
    return bool(separator) and source not in _LIBRARIES


def _timm(name: str, inner: str, arguments: dict[str, Any]) -> nn.Module:
    timm = _imported("timm")
    known = timm.list_models()
    if (
        inner.partition(".")[0] not in known
    ):  # timm puts the name of pretrained weights behind a dot
        raise _unknown(name, known, "timm")
    return _built(name, lambda: timm.create_model(inner, pretrained=False, **arguments))


def _torchvision(name: str, inner: str, arguments: dict[str, Any]) -> nn.Module:
    models = _imported("torchvision").models
    known = models.list_models(module=models)  # without the submodules: classifiers only
    if inner not in known:
        raise _unknown(name, known, "torchvision")
    return _built(name, lambda: models.get_model(inner, weights=None, **arguments))


def import_own(module: str) -> ModuleType:
    """Import a module of the caller's, which may be in the working directory."""
    # The console script's first entry is its own folder.
    if "" not in sys.path:
        sys.path.insert(0, "")
    return importlib.import_module(module)


def _own(name: str, inner: str, arguments: dict[str, Any]) -> nn.Module:
    module = name.partition(":")[0]
    return _built(name, lambda: getattr(import_own(module), inner)(**arguments))


def _from_file(file: str, weights: Path | None, shape: tuple[int, ...] | None) -> nn.Module:
    if weights is not None:
        raise ModelError(f"The file {file} has weights of its own; leave out the checkpoint.")
    from mrecg.conversion.onnx_modules import from_onnx

    return from_onnx(file, shape)


_ONNX = "onnx"
_LIBRARIES = {"timm": _timm, "torchvision": _torchvision}


def _built(name: str, make: Callable[[], Any]) -> nn.Module:
    try:
        model = make()
    except (Exception, SystemExit) as error:  # other people's code may raise anything
        raise ModelError(
            f"The network {name} cannot be built: {type(error).__name__}: {error}."
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"The factory {name} gave a {type(model).__name__}, expected a module.")
    return model


def _imported(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"The package {error.name} is not installed; run pip install 'mrecg[{package}]'."
        ) from error
    except Exception as error:  # torchvision built for another torch raises RuntimeError and others
        raise ModelError(
            f"The package {package} cannot be imported ({type(error).__name__}: {error}); "
            "install the builds of torch and torchvision that belong together."
        ) from error


def _unknown(name: str, known: list[str], package: str) -> ModelError:
    close = get_close_matches(name.partition(":")[2], known, n=1)
    hint = (
        f"did you mean '{package}:{close[0]}'?" if close else f"{package}.list_models() lists them."
    )
    return ModelError(f"There is no network '{name}'; {hint}")
