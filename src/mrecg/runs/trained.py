"""From a module that was trained back to a quantized model."""

from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from mrecg.errors import ModelError, RunError, expect
from mrecg.preparation.value_records import describe_weight
from mrecg.quantizers.straight_through import TrainableScale, TrainableWeight
from mrecg.records.evaluation import Evaluation
from mrecg.records.record import QuantizerRecord, Record, TrainingRecord
from mrecg.runs.folder import QuantizedModel
from mrecg.runs.graph_reader import rebuild
from mrecg.runs.sizes import weight_path
from mrecg.runs.stored_graph import StoredNode
from mrecg.runs.trainable import Origin, TrainableModel, rounded_bias
from mrecg.torch_state import default_torch_modes

__all__ = ["from_trained"]

_ACTIVATION_OPERATORS = tuple(
    f"quantized_decomposed.{name}_per_tensor.default" for name in ("quantize", "dequantize")
)


@default_torch_modes()
@torch.no_grad()
def from_trained(
    module: nn.Module,
    *,
    accuracy: Evaluation | None = None,
    float_accuracy: Evaluation | None = None,
    folder: str | Path | None = None,
) -> QuantizedModel:
    """Return the quantized model that a trained module computes: integer codes and scales, bit for bit the same outputs.

    Args:
        module: from `QuantizedModel.trainable`, or one that holds it, such as a LightningModule.
        accuracy: of the module, from `mrecg.evaluate`, for the record; without it the record holds none, as the old one is
            no longer true.
        float_accuracy: of the float network on the same images; without it that of the run.
        folder: a new one, to save the run in.

    Raises:
        ModelError: there is no such module, or training made numbers of it that are none.
        RunError: the folder cannot be written, or the accuracy of the float network is not known.
    """
    trained = _find(module)
    network, origin = trained.network, trained.origin
    _require_finite(network)
    tensors = {name: _trained_tensor(network, origin, name) for name in origin.graph.tensors}
    scales = {key: float(network.get_submodule(path)()) for key, path in origin.activations.items()}
    nodes = tuple(_with_scale(node, scales) for node in origin.graph.nodes)
    program = rebuild(origin.graph.model_copy(update={"nodes": nodes}), tensors)
    record = origin.record.model_copy(
        update={
            "quantizers": tuple(
                _describe(one, network, scales) for one in origin.record.quantizers
            ),
            "training": _summarize(network, origin),
            "accuracy": _accuracies(origin.record, accuracy, float_accuracy),
        }
    )
    found = QuantizedModel(program, record, origin.recipe)
    if folder is not None:
        found.save(folder)
    return found


def _find(module: nn.Module) -> TrainableModel:
    expect(module, nn.Module, "The trained model", "give the module that was trained", ModelError)
    found = [one for one in module.modules() if isinstance(one, TrainableModel)]
    if len(found) != 1:
        raise ModelError(
            f"The module holds {len(found)} models from quantized.trainable(), expected one; give the one that was trained."
        )
    return found[0]


def _require_finite(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ModelError(
                f"The parameter '{name}' of the trained model is NaN or infinite: its training diverged; "
                "train with a smaller learning rate."
            )


def _trained_tensor(network: fx.GraphModule, origin: Origin, name: str) -> Tensor:
    """Return a tensor of the run as it is now, on the CPU in rows."""
    owner, _, attribute = name.rpartition(".")
    if owner in origin.weights:
        weight = network.get_submodule(owner)
        assert isinstance(weight, TrainableWeight)
        state = weight.current()
        value = state.codes if attribute == "codes" else getattr(state.scaling, attribute).flatten()
    elif name in origin.biases:
        value = rounded_bias(network, name, *origin.biases[name])
    else:
        value = attrgetter(name)(network)
    dtype = getattr(torch, origin.graph.tensors[name].dtype)
    return value.detach().to("cpu", dtype).contiguous().clone()


def _with_scale(
    node: StoredNode, scales: Mapping[tuple[float, int, int, int], float]
) -> StoredNode:
    if node.operator not in _ACTIVATION_OPERATORS:
        return node
    x, scale, zero_point, low, high, *others = node.args
    found = scales[scale, zero_point, low, high]  # type: ignore[index]
    return node.model_copy(update={"args": (x, found, zero_point, low, high, *others)})


def _describe(
    record: QuantizerRecord,
    network: fx.GraphModule,
    scales: Mapping[tuple[float, int, int, int], float],
) -> QuantizerRecord:
    """Return the record of a quantizer after training; what activations it reads now is not known."""
    if record.kind == "activation":
        known = {(scale, low, high): now for (scale, _, low, high), now in scales.items()}
        now = known.get((record.scales[0], record.low, record.high), record.scales[0])
        return record.model_copy(update={"scales": (now, now), "values": None})
    weight = network.get_submodule(weight_path(record))
    assert isinstance(weight, TrainableWeight)
    low, high = torch.aminmax(weight.scale())
    values = describe_weight(weight.grid, weight.current(), weight.axis)
    return record.model_copy(update={"scales": (float(low), float(high)), "values": values})


def _summarize(network: fx.GraphModule, origin: Origin) -> TrainingRecord:
    """Return how far training went from the run."""
    codes = changed = 0
    factors = []
    for path in origin.weights:
        weight = network.get_submodule(path)
        assert isinstance(weight, TrainableWeight)
        codes += weight.latent.numel()
        changed += int((weight.current().codes != weight.first).sum())
    for one in network.modules():
        if isinstance(one, TrainableScale) and one.factor is not None:
            factors.append((one() / one.start).flatten())
    low, high = torch.cat(factors).aminmax() if factors else (torch.ones(1), torch.ones(1))
    return TrainingRecord(codes=codes, changed=changed, scales=(float(low), float(high)))


def _accuracies(
    record: Record, accuracy: Evaluation | None, float_accuracy: Evaluation | None
) -> dict[str, Evaluation]:
    if accuracy is None:
        return {}
    for one in filter(None, (accuracy, float_accuracy)):
        expect(one, Evaluation, "The accuracy", "measure it with mrecg.evaluate", RunError)
    before = float_accuracy or record.accuracy.get("float")
    if before is None or before.count != accuracy.count:
        raise RunError(
            "The accuracy of the float network on the same images is not in the record of the run; give it as float_accuracy."
        )
    return {"float": before, "quantized": accuracy}
