"""Any PT2E quantizer decides where quantizers go and on which grids."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torchao.quantization.pt2e.quantizer import (
    DerivedQuantizationSpec,
    FixedQParamsQuantizationSpec,
)
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

import mrecg
import toys
from mrecg.errors import CaptureError
from mrecg.graph.capture import capture_graph
from mrecg.graph.insert import (
    MinMaxObserver,
    PlacedQuantizer,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    insert_quantizers,
)
from mrecg.graph.layers import layers_of


def test_any_pt2e_quantizer_can_place() -> None:
    """torchao's quantizer for x86: its own grids, reconstructed by us."""
    vendor = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    recipe = mrecg.preset("w8a8-brecq", {"reconstruct.steps": 3, "reconstruct.batch_size": 8})
    model, x = toys.make("residual"), toys.images(16)
    quantized = mrecg.quantize(model, x, recipe=recipe, quantizer=vendor)
    weights = [q for q in quantized.record.quantizers if q.kind == "weight"]
    assert len(weights) == len([m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)])
    assert all(q.low in (-128, -127) and q.high == 127 for q in weights)
    torch.testing.assert_close(quantized.model(x), model(x), rtol=0.2, atol=0.1)


class _Annotating(Quantizer):
    """Annotates the layers of `model` with the given specs: of inputs, weights and biases."""

    def __init__(self, make: Callable[[fx.Node], dict[int, object]]) -> None:
        super().__init__()
        self._make = make

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        for layer in layers_of(model.graph):
            specs = {layer.args[position]: spec for position, spec in self._make(layer).items()}
            layer.meta["quantization_annotation"] = QuantizationAnnotation(
                input_qspec_map=specs, _annotated=True
            )
        return model

    def validate(self, model: fx.GraphModule) -> None:
        pass


def _codes(observer: object, bits: int = 8) -> QuantizationSpec:
    return QuantizationSpec(
        dtype=torch.uint8,
        observer_or_fake_quant_ctr=observer,
        quant_min=0,
        quant_max=2**bits - 1,
        qscheme=torch.per_tensor_affine,
    )


def _inserted(
    make: Callable[[fx.Node], dict[int, object]], model: nn.Module | None = None
) -> tuple[fx.GraphModule, tuple[PlacedQuantizer, ...]]:
    model = model or nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)).eval()
    return insert_quantizers(
        capture_graph(model, toys.images(2)),
        _Annotating(make),
    )


def test_a_prescribed_grid_is_requested_as_it_is() -> None:
    spec = FixedQParamsQuantizationSpec(torch.uint8, 1 / 256, 3, 0, 255, torch.per_tensor_affine)
    _, quantizers = _inserted(lambda layer: {0: spec})
    assert [placed.request.fixed for placed in quantizers] == [(1 / 256, 3)] * 2


def test_a_prescribed_grid_is_kept() -> None:
    """From the request to the operators of the finished model."""
    spec = FixedQParamsQuantizationSpec(torch.uint8, 1 / 256, 3, 0, 255, torch.per_tensor_affine)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)).eval()
    quantized = mrecg.quantize(
        model,
        toys.images(8),
        recipe=mrecg.preset("w8a8-rtn"),
        quantizer=_Annotating(lambda layer: {0: spec, 1: _codes(MinMaxObserver)}),
    )
    grids = [
        node.args[1:3]
        for node in quantized.model.graph.nodes  # type: ignore[union-attr]
        if node.target is torch.ops.quantized_decomposed.quantize_per_tensor.default
    ]
    assert grids == [(1 / 256, 3)] * 2


def test_a_bias_with_a_derived_grid_has_no_quantizer() -> None:
    def specs(layer: fx.Node) -> dict[int, object]:
        derived = DerivedQuantizationSpec(
            derived_from=[(layer.args[0], layer), (layer.args[1], layer)],
            derive_qparams_fn=lambda observers: (torch.ones(1), torch.zeros(1)),
            dtype=torch.int32,
            quant_min=-(2**31),
            quant_max=2**31 - 1,
            qscheme=torch.per_tensor_symmetric,
        )
        return {0: _codes(MinMaxObserver), 1: _codes(MinMaxObserver), 2: derived}

    graph, quantizers = _inserted(specs)
    assert [placed.tensor for placed in quantizers if placed.is_weight] == ["0.weight", "2.weight"]
    for layer in layers_of(graph.graph):
        assert layer.args[0].op == layer.args[1].op == "call_module"
        assert layer.args[2].op == "get_attr"


def test_observers_of_another_library_are_refused() -> None:
    """Left out in silence, they would leave the network in float."""
    with pytest.raises(CaptureError, match=r"torch\.ao\.quantization.*MinMaxObserver.* expected"):
        _inserted(lambda layer: {0: _codes(torch.ao.quantization.MinMaxObserver)})


def test_layers_that_share_a_weight_need_one_grid() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x))

    bits = iter((4, 8))
    with pytest.raises(
        CaptureError, match=r"'conv\.weight': asymmetric codes from 0 to 255 with one scale and"
    ):
        _inserted(lambda layer: {1: _codes(MinMaxObserver, next(bits))}, Twice().eval())


def test_a_quantizer_that_finds_nothing_is_refused() -> None:
    """One of torchao's for another torch matches no pattern and says nothing."""
    quantizer = _Annotating(lambda layer: {})
    with pytest.raises(
        mrecg.MrecgError, match="_Annotating annotates none of the model's 9 layers"
    ):
        mrecg.prepare(
            toys.make("residual"),
            toys.images(8),
            recipe=mrecg.preset("w8a8-rtn"),
            quantizer=quantizer,
        )
