"""Metrics of any task: a function of outputs and targets, an object with `update` and `compute`, or the float network."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor, fx, nn

from mrecg import distributed
from mrecg.errors import DataError, ModelError, MrecgError, expect, quoted, reason_of
from mrecg.export.comparison import OutputComparison
from mrecg.freed_memory import freed_memory_kept
from mrecg.graph.channels import class_axis_of
from mrecg.graph.inputs import ModelInputs, NamedInputs, as_inputs, call, each, shapes
from mrecg.graph.outputs import computed_outputs, named_tensors, on_cpu, plain_outputs
from mrecg.preparation.calibration import check_images
from mrecg.preparation.models import fit_inputs
from mrecg.runs.folder import QuantizedModel
from mrecg.torch_state import device_of, evaluation_mode, matmul_precision

__all__ = [
    "Fidelity",
    "Meter",
    "Metric",
    "Score",
    "answer",
    "fidelity",
    "measure",
    "metric_name",
]

Metric = Any
"""`fn(outputs, targets)` for a batch, or an object such as torchmetrics' with `update(outputs, targets)` and `compute()`."""
Score = float | list[float] | dict[str, Any]
"""A number, or numbers by name."""

_IMAGES_AT_ONCE = 32


@dataclass(frozen=True)
class Fidelity:
    """How close one output of a quantized network is to the float network's.

    Attributes:
        relative_error: ‖y − y_q‖ / ‖y‖ over all images; of integers and booleans `None`.
        snr: the ratio of signal and noise in decibels, `−20 log₁₀` of the relative error; of integers and booleans `None`.
        agreement: percent of the positions with the same class where there is an axis of classes, or with the same integer
            or boolean; `None` for other floats.
    """

    relative_error: float | None
    snr: float | None
    agreement: float | None


@torch.no_grad()
@freed_memory_kept()
def fidelity(
    float_model: nn.Module, model: QuantizedModel, images: Tensor | Mapping[str, Tensor]
) -> dict[str, Fidelity]:
    """Compare a quantized network with the float one, output by output, without labels.

    Args:
        float_model: the network that was quantized. Run in evaluation mode and restored.
        model: from `mrecg.quantize` or `mrecg.load`.
        images: of shape `(n, …)`, best ones that calibrated nothing; of a network with several inputs, a dictionary by name.

    Returns:
        For each tensor that the networks return, by its name (`logits`, `maps_1`, `output_0`; `output` for a single one).

    Raises:
        ModelError: an argument is no such model, or the two return different things.
        DataError: images that the networks cannot take.
    """
    advice = "give the module that was quantized"
    expect(float_model, nn.Module, "The float model", advice, ModelError)
    advice = "give what mrecg.quantize or mrecg.load returned"
    expect(model, QuantizedModel, "The quantized model", advice, ModelError)
    where = "the images of the comparison"
    inputs: ModelInputs = as_inputs(images, where)
    advice = "give images as a tensor"
    expect(inputs, (Tensor, NamedInputs), "What fidelity is measured on", advice, DataError)
    check_images(inputs, where)
    if not len(inputs):
        raise DataError("There are no images to compare on.")
    nodes = computed_outputs(model.program)
    found = {name: OutputComparison(class_axis_of(node)) for name, node in nodes.items()}
    for index, part in enumerate(inputs.split(_IMAGES_AT_ONCE)):
        wanted, got = (
            named_tensors(plain_outputs(answer(network, part, f"part {index}")))
            for network in (float_model, model.model)
        )
        _compare(found, wanted, got)
    return {name: _fidelity(nodes[name], one) for name, one in found.items() if one.count}


@freed_memory_kept()
def measure(model: nn.Module, loader: Iterable[Any], metric: Metric) -> Score:
    """Return the value of a metric on labeled images; see `mrecg.evaluate`.

    Raises:
        DataError: no images, images that the model cannot take, or a metric that fails or gives no number.
    """
    meter = Meter.of(metric)
    images_seen = 0
    # Not inference mode: a metric's state, and what a model keeps from its first call, have to stay tensors that can be used.
    with torch.no_grad():
        for index, batch in distributed.share_of_items(enumerate(loader)):
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise DataError(
                    f"Batch {index} is a {type(batch).__name__}, expected a pair of images and targets."
                )
            images, targets = as_inputs(batch[0], f"batch {index}"), batch[1]
            advice = "convert it with torch.from_numpy, say"
            expect(
                images, (Tensor, NamedInputs), f"The image part of batch {index}", advice, DataError
            )
            check_images(images, f"batch {index}")
            outputs = on_cpu(answer(model, images, f"batch {index}"))
            meter.add(outputs, targets, len(images), index)
            images_seen += len(images)
    (processes,) = distributed.total([float(images_seen > 0)])
    if processes < distributed.count():
        raise DataError("There are no images to evaluate on, or fewer batches than processes.")
    return meter.result(images_seen)


def metric_name(metric: Metric | None) -> str:
    """Return what a metric is called: a function by its name, an object by its class; `None` is the percent of right classes."""
    return "top-1" if metric is None else getattr(metric, "__name__", type(metric).__name__)


def answer(model: nn.Module, images: ModelInputs, where: str) -> Any:
    """Return what a model in evaluation mode returns for some images.

    Raises:
        DataError: the model cannot take them, naming `where` they are.
        ModelError: it takes several inputs, and one is given.
    """
    device = device_of(model)
    images = fit_inputs(model, images, where)
    try:
        # By default CUDA devices use TF32.
        with evaluation_mode(model), matmul_precision("float32", device):
            # A copy: a forward may normalize its input in place.
            return call(model, each(images, lambda one: one.to(device, copy=True)))
    except Exception as error:  # it is the caller's model: anything may come out of it
        raise DataError(
            f"The model cannot take the images of {where}, of shape {_shape(images)}: {reason_of(error)}"
        ) from error


def _shape(images: ModelInputs) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
    return tuple(images.shape) if isinstance(images, Tensor) else shapes(images)


def _compare(
    found: Mapping[str, OutputComparison], wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]
) -> None:
    tensors = {
        name for name in found if name in got
    }  # others are numbers, such as the batch's size
    if not tensors <= wanted.keys():
        raise ModelError(
            f"The float model returns {', '.join(wanted) or 'no tensor'}, expected {', '.join(found)}; give the model that "
            "was quantized."
        )
    for name in tensors:
        try:
            found[name].add(wanted[name].cpu(), got[name].cpu())
        except ValueError as error:
            raise ModelError(
                f"The output '{name}' of the quantized model has {error} of the float model; give the model that was quantized."
            ) from error


def _fidelity(node: fx.Node, found: OutputComparison) -> Fidelity:
    value = node.meta.get("val")
    if isinstance(value, Tensor) and not value.is_floating_point():
        return Fidelity(None, None, found.agreement)
    return Fidelity(found.relative_error, found.snr, found.agreement)


class Meter(ABC):
    """Collects a metric over batches."""

    @staticmethod
    def of(metric: Metric) -> "Meter":
        if isinstance(metric, type):
            raise DataError(
                f"The metric is the class {metric.__name__}, expected an object; give {metric.__name__}()."
            )
        if all(callable(getattr(metric, name, None)) for name in ("update", "compute")):
            return _ObjectMeter(metric)
        if callable(metric):
            return _FunctionMeter(metric)
        raise DataError(
            f"The metric is a {type(metric).__name__}, expected a function of outputs and targets, or an object with update "
            "and compute."
        )

    @abstractmethod
    def add(self, outputs: Any, targets: Any, images: int, index: int) -> None:
        """Take a batch into account."""

    @abstractmethod
    def result(self, images: int) -> Score:
        """Return the metric over all images."""


class _FunctionMeter(Meter):
    """Averages a function of a batch over images."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self._function = function
        self._sums: dict[str, float] = {}
        self._has_names = False

    def add(self, outputs: Any, targets: Any, images: int, index: int) -> None:
        value = _run(lambda: self._function(outputs, targets), f"batch {index}")
        found = value if isinstance(value, Mapping) else {"": value}
        if self._sums and self._sums.keys() != found.keys():
            raise DataError(
                f"The metric gives {', '.join(map(repr, found))} for batch {index}, expected the names of the batches before."
            )
        self._has_names = isinstance(value, Mapping)
        for name, one in found.items():
            number = _number(one, f"for batch {index}")
            if isinstance(number, list):
                raise DataError(
                    f"The metric gives {len(number)} numbers for batch {index}, expected one, or a dictionary of them."
                )
            self._sums[name] = self._sums.get(name, 0.0) + number * images

    def result(self, images: int) -> Score:
        *sums, count = distributed.total([*self._sums.values(), float(images)])
        means = dict(zip(self._sums, (one / count for one in sums), strict=True))
        return means if self._has_names else means[""]


class _ObjectMeter(Meter):
    """Gives an object every batch; several processes are its own business, as they are torchmetrics'."""

    def __init__(self, metric: Any) -> None:
        self._metric = metric
        if callable(getattr(metric, "reset", None)):
            _run(metric.reset, "its reset")

    def add(self, outputs: Any, targets: Any, images: int, index: int) -> None:
        _run(lambda: self._metric.update(outputs, targets), f"batch {index}")

    def result(self, images: int) -> Score:
        value = _run(self._metric.compute, "all batches")
        if isinstance(value, Mapping):
            return {str(name): _number(one, f"as '{name}'") for name, one in value.items()}
        return _number(value, "for all batches")


def _run(call: Callable[[], Any], where: str) -> Any:
    try:
        return call()
    except MrecgError:
        raise
    except Exception as error:  # metrics are anybody's code
        raise DataError(
            f"The metric fails for {where}: {type(error).__name__}: {reason_of(error)}; it is given what the model returns, on "
            "the CPU, and the targets as the loader gives them."
        ) from error


def _number(value: Any, where: str) -> float | list[float]:
    """Return a number, or the numbers of a tensor."""
    if isinstance(value, Tensor) or hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        try:
            return [float(one) for one in torch.tensor(value, dtype=torch.float64).flatten()]
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"The metric gives {quoted(value)} {where}, expected numbers: {reason_of(error)}."
            ) from error
    if not isinstance(value, Real):
        raise DataError(
            f"The metric gives a {type(value).__name__} {where}, expected a number or a dictionary of numbers."
        )
    return float(value)
