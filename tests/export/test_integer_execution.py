"""Which layers ONNX Runtime computes in integers, and that it computes what was simulated where it does."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import mrecg
import toys
from mrecg.export.findings import Verification


class Activated(nn.Module):
    """Three convolutions with an activation behind each, and a last one without."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 1)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.a, self.b, self.c):
            x = self.activation(layer(x))
        return self.last(x)


class SideBySide(nn.ModuleDict):
    """Networks with the same input: one file for all of them is written in a fraction of the time."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: network(x) for name, network in self.items()}


def verified(
    models: Mapping[str, nn.Module], folder: Path, backend: str = "onnxruntime", bits: str = "w8a8"
) -> tuple[Verification, dict[str, float]]:
    """Quantize to nearest, export and verify; return what was found, and every relative error against float."""
    model = SideBySide(models)
    # Layers of equal weights would be computed once.
    torch.manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    recipe = mrecg.preset(f"{bits}-rtn").for_backend(backend)
    x = toys.images(16)
    quantized = mrecg.quantize(model.eval(), x, recipe=recipe)
    path = mrecg.export_onnx(quantized, folder / "model.onnx")
    with torch.no_grad():
        wanted, made = model(x), quantized.model(x)
    errors = {name: float((made[name] - one).norm() / one.norm()) for name, one in wanted.items()}
    return mrecg.verify_onnx(quantized, path, x, repeats=0), errors


MODULES: dict[str, Callable[[Tensor], Tensor]] = {
    "SiLU": nn.SiLU(),
    "Hardswish": nn.Hardswish(),
    "LeakyReLU": nn.LeakyReLU(0.1),
    "PReLU": nn.PReLU(8),
    "GELU": nn.GELU(),
    "Mish": nn.Mish(),
    "ELU": nn.ELU(),
    "Tanh": nn.Tanh(),
    "Sigmoid": nn.Sigmoid(),
    "Softplus": nn.Softplus(),
    "Softmax": nn.Softmax(1),
    "ReLU6": nn.ReLU6(),
    "PixelShuffle": nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2)),
    "PixelShuffle_and_activation": nn.Sequential(
        nn.PixelShuffle(2), nn.PReLU(), nn.PixelUnshuffle(2)
    ),
    "LayerNorm": nn.LayerNorm(8),
    "GroupNorm": nn.GroupNorm(2, 8),
    "chunk": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
}


def test_a_layer_in_front_of_any_activation_runs_in_integers(tmp_path: Path) -> None:
    models = {name: Activated(activation) for name, activation in MODULES.items()}
    found, errors = verified(models, tmp_path)
    assert set(found.integer_layers) == {f"{name}.{layer}" for name in models for layer in "abc"}
    # What leaves the network is not rounded.
    assert set(found.float_layers) == {f"{name}.last" for name in models}
    bounds = {name: 0.03 if name.endswith("Norm") else 0.015 for name in models}
    assert {name: error for name, error in errors.items() if error >= bounds[name]} == {}


WRITTEN: dict[str, Callable[[Tensor], Tensor]] = {
    "SiLU": lambda x: x * torch.sigmoid(x),
    "Hardswish": lambda x: x * functional.relu6(x + 3) / 6,
    "Mish": lambda x: x * torch.tanh(functional.softplus(x)),
}


def test_an_activation_that_is_written_out_is_the_same_activation(tmp_path: Path) -> None:
    (found, errors), (module, same) = (
        verified({name: Activated(activations[name]) for name in WRITTEN}, tmp_path)
        for activations in (WRITTEN, MODULES)
    )
    assert found.integer_layers == module.integer_layers
    assert errors == pytest.approx(same, rel=1e-3)


class BetweenQuantizers(nn.Module):
    """An operator whose input and result are quantized, so that a runtime may compute it in integers."""

    def __init__(self, operator: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 1, bias=False)
        self.c = nn.Conv2d(8, 4, 1)
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.c(self.b(x) + self.operator(x))


OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: MODULES[name] for name in ("LeakyReLU", "Sigmoid", "Softmax", "Tanh", "GELU")},
    "Softmax_over_places": lambda x: x.flatten(2).softmax(-1).view(x.shape),
    "Softmax_of_tokens": lambda x: x.permute(0, 2, 3, 1).softmax(-1).permute(0, 3, 1, 2),
    "LogSoftmax": nn.LogSoftmax(1),
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "AvgPool": nn.AvgPool2d(3, 1, 1),
    "mul": lambda x: x * x.mean((2, 3), keepdim=True),
}


@pytest.mark.parametrize("backend", ["onnxruntime", "xnnpack", "snpe"])
def test_an_operator_between_quantizers_gives_the_simulated_codes(
    backend: str, tmp_path: Path
) -> None:
    """ONNX Runtime's integer softmax is an approximation: 0.6 codes and more from the simulated number."""
    models = {name: BetweenQuantizers(operator) for name, operator in OPERATORS.items()}
    found, _ = verified(models, tmp_path, backend)
    assert found.largest_distance < 0.51


@pytest.mark.parametrize("mover", [nn.MaxPool2d(2), lambda x: x.permute(0, 2, 3, 1)])
def test_signed_codes_load_whatever_moves_them(
    mover: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    """Of opset 21, ONNX Runtime 1.32 refused such a file."""
    model = Activated(lambda x: torch.tanh(mover(x)).permute(0, 1, 3, 2))
    model.b, model.c = nn.Identity(), nn.Conv2d(8, 8, 1)
    found, _ = verified({"moved": model}, tmp_path, "qdq")
    assert found.largest_distance < 0.51
