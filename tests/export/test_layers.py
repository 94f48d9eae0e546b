"""Layers beyond the usual ones: right numbers in the simulation, and in the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import mrecg
import toys
from mrecg.errors import ModelError

pytest.importorskip("onnx")
IMAGES = toys.images(32)


class Between(nn.Module):
    """A part between two convolutions."""

    def __init__(self, part: nn.Module, width: int, out: int) -> None:
        super().__init__()
        self.stem, self.part = nn.Conv2d(2, width, 3, padding=1), part
        self.head = nn.Conv2d(out, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.part(self.stem(x).relu()).relu())


def quantize(model: nn.Module, backend: str = "onnxruntime", bits: str = "w8a8") -> Any:
    recipe = mrecg.preset(f"{bits}-rtn").for_backend(backend)
    return mrecg.quantize(model, IMAGES, recipe=recipe)


def relative_error(model: nn.Module, quantized: mrecg.QuantizedModel) -> float:
    with torch.no_grad():
        wanted = model.eval()(IMAGES)
    return float((quantized.model(IMAGES) - wanted).norm() / wanted.norm())


def assert_file_computes_it(quantized: mrecg.QuantizedModel, folder: Path, **how: Any) -> None:
    path = mrecg.export_onnx(quantized, folder / "model.onnx", **how)
    found = mrecg.verify_onnx(quantized, path, IMAGES, repeats=0)
    assert found.largest_distance < 0.51
    loaded = mrecg.load(quantized.save(folder / "run"))
    assert torch.equal(loaded.model(IMAGES), quantized.model(IMAGES))


def transposed(inputs: int, outputs: int, groups: int = 1, bias: bool = True) -> Between:
    """Channels whose weights differ a hundredfold, which one range for all would ruin."""
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, groups=groups, bias=bias)
    factors = torch.logspace(0, -2, outputs).view(groups, 1, -1, 1, 1)
    layer.weight.data = (layer.weight.data.unflatten(0, (groups, -1)) * factors).flatten(0, 1)
    return Between(layer, inputs, outputs)


SHAPES = [(8, 6, 1), (8, 6, 2), (8, 8, 8), (8, 16, 8), (8, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_output_channel_of_a_transposed_convolution_has_its_range(
    shape: tuple[int, int, int], tmp_path: Path
) -> None:
    model = transposed(*shape)
    quantized = quantize(model, bits="w4a8")
    _, outputs, groups = shape
    codes = quantized.program.state_dict["part.quantized_weight.codes"]
    scale = quantized.program.state_dict["part.quantized_weight.scale"]
    assert codes.numel() == model.part.weight.numel()
    assert scale.unique().numel() == outputs
    per_channel = real_weight(quantized, groups) - by_channel(model.part.weight, groups)
    power = by_channel(model.part.weight, groups).square().mean(1).sqrt()
    assert bool((per_channel.square().mean(1).sqrt() / power < 0.12).all())
    assert_file_computes_it(quantized, tmp_path)


def by_channel(weight: Tensor, groups: int) -> Tensor:
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flatten(1).detach()


def real_weight(quantized: mrecg.QuantizedModel, groups: int) -> Tensor:
    state = quantized.program.state_dict
    codes, scale, zero_point = (
        state[f"part.quantized_weight.{name}"] for name in ("codes", "scale", "zero_point")
    )
    if groups == 1:
        codes = codes.transpose(0, 1)
    return ((codes.flatten(1).int() - zero_point[:, None]) * scale[:, None]).float()


@pytest.mark.parametrize("shape", [(8, 6, 1), (8, 6, 2)])
def test_packed_files_of_transposed_convolutions_without_bias(
    shape: tuple[int, int, int], tmp_path: Path
) -> None:
    quantized = quantize(transposed(*shape, bias=False), bits="w4a8")
    assert_file_computes_it(quantized, tmp_path, layout="packed")


@pytest.mark.parametrize(
    ("backend", "shape"), [("snpe", (8, 6, 1)), ("vitis", (8, 6, 2)), ("snpe", (8, 8, 8))]
)
def test_transposed_convolutions_with_one_range(
    shape: tuple[int, int, int], backend: str, tmp_path: Path
) -> None:
    model = transposed(*shape)
    quantized = quantize(model, backend)
    assert relative_error(model, quantized) < 0.03
    assert_file_computes_it(quantized, tmp_path)


def test_reconstruction_learns_the_weights_of_grouped_transposed_convolutions() -> None:
    model = transposed(8, 6, 2)
    steps = {"reconstruct.steps": 40, "reconstruct.batch_size": 8}
    recipe = mrecg.preset("w2a8-qdrop", steps)
    learned = mrecg.quantize(model, IMAGES, recipe=recipe)
    nearest = mrecg.quantize(model, IMAGES, recipe=mrecg.preset("w2a8-rtn"))
    assert relative_error(model, learned) < relative_error(model, nearest)


class ZeroGamma(nn.Module):
    """A residual branch whose last norm starts at zero: its folded weights are zero, its biases are not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)
        nn.init.zeros_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(x + self.norm(self.branch(x)))


@pytest.mark.parametrize("backend", ["snpe", "vitis", "stpu"])
def test_biases_of_weights_that_are_zero(backend: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ZeroGamma()
    quantized = quantize(model, backend)
    assert relative_error(model, quantized) < 0.04
    assert_file_computes_it(quantized, tmp_path)


class Scaled(nn.Module):
    """The same answer with small weights, or small values, on the way."""

    def __init__(self, weights: float, values: float) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 1)
        for tensor in (self.stem.weight, self.stem.bias):
            tensor.data *= values
        self.head.weight.data *= weights
        self.head.bias.data *= weights * values
        self.factor = 1 / weights / values

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.head(self.stem(x).relu())


@pytest.mark.parametrize("name", ["w8a8-rtn", "w8a8-lsq"])
@pytest.mark.parametrize(
    ("weights", "values"), [(1e-9, 1.0), (1.0, 1e-9), (1e-7, 1e-7), (1e-13, 1.0)]
)
def test_small_numbers_have_small_scales(weights: float, values: float, name: str) -> None:
    torch.manual_seed(0)
    settings = {"weight.ranges.method": "lsq"} if "lsq" in name else {}
    recipe = mrecg.preset("w8a8-rtn", settings)
    errors = []
    for factors in ((1.0, 1.0), (weights, values)):
        torch.manual_seed(0)
        model = Scaled(*factors)
        errors.append(relative_error(model, mrecg.quantize(model, IMAGES, recipe=recipe)))
    assert errors[1] == pytest.approx(errors[0], rel=0.1)


class Norm(nn.Module):
    def __init__(self, norm: nn.Module, linear: bool = False) -> None:
        super().__init__()
        self.linear = linear
        self.layer = nn.Linear(128, 4) if linear else nn.Conv2d(2, 4, 3)
        self.norm, self.head = norm, nn.Linear(4, 3) if linear else nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layer(x.flatten(1) if self.linear else x)).relu())


class AlwaysTraining(nn.BatchNorm2d):
    """Uses the statistics of the batch in evaluation, too."""

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        return functional.batch_norm(x, mean, variance, self.weight, self.bias, training=True)


class KeptInTraining(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> "KeptInTraining":
        return super().train(True)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "no parameters behind a linear layer": lambda: Norm(nn.BatchNorm1d(4, affine=False), True),
    "no parameters": lambda: Norm(nn.BatchNorm2d(4, affine=False)),
    "no statistics": lambda: Norm(nn.BatchNorm2d(4, track_running_stats=False)),
    "no statistics behind a linear layer": lambda: Norm(
        nn.BatchNorm1d(4, track_running_stats=False), True
    ),
    "nothing": lambda: Norm(nn.BatchNorm2d(4, affine=False, track_running_stats=False)),
    "functional": lambda: Norm(AlwaysTraining(4)),
    "kept in training": lambda: Norm(KeptInTraining(4)),
    "usual": lambda: Norm(nn.BatchNorm2d(4)),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_of_every_kind(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = NORMS[name]()
    if model.norm.running_mean is not None:
        nn.init.normal_(model.norm.running_mean)
        nn.init.uniform_(model.norm.running_var, 0.5, 2)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    quantized = quantize(model)
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    assert relative_error(model, quantized) < 0.03
    folded = not any("batch_norm" in str(node.target) for node in quantized.program.graph.nodes)
    assert folded == (name in ("usual", "no parameters", "no parameters behind a linear layer"))
    assert_file_computes_it(quantized, tmp_path)


class Fourier(nn.Module):
    """A filter of complex numbers, as in GFNet: four axes, of which the last are real and imaginary parts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 1)
        self.filter = nn.Parameter(torch.randn(4, 8, 5, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fft.rfft2(self.stem(x)) * torch.view_as_complex(self.filter)
        return self.head(torch.fft.irfft2(x, s=(8, 8)))


def test_parameters_that_are_no_weights_keep_their_layout(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Fourier()
    quantized = mrecg.quantize(model, IMAGES, recipe=mrecg.preset("w8a8-rtn"))
    assert relative_error(model, quantized) < 0.02
    assert_file_computes_it(quantized, tmp_path)


class Masked(nn.Module):
    def __init__(self, value: float = float("-inf")) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(2, 4, 4, 4), nn.Linear(4, 5)
        self.query, self.key = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("mask", torch.full((4, 4), value).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        scores = self.query(tokens) @ self.key(tokens).transpose(1, 2) + self.mask
        return self.head(scores.softmax(-1) @ tokens)


def test_masks_of_infinite_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Masked()
    quantized = quantize(model)
    assert relative_error(model, quantized) < 0.03
    assert_file_computes_it(quantized, tmp_path)
    with pytest.raises(ModelError, match="'mask' holds NaN"):
        quantize(Masked(float("nan")))
    broken = nn.BatchNorm2d(4)
    assert broken.running_mean is not None
    broken.running_mean[1] = float("inf")
    with pytest.raises(ModelError, match=r"'norm\.running_mean' holds NaN or infinite"):
        quantize(Norm(broken))


def test_a_mask_gets_no_grid() -> None:
    """Minus infinity is no code: what adds a constant runs in float, whatever the target."""
    model = Masked()
    assert relative_error(model, quantize(model, "xnnpack")) < 0.03


class Upsamples(nn.Module):
    """A layer that is never quantized, with codes before and behind it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.up = nn.Conv1d(2, 8, 9, 2, 4), nn.ConvTranspose1d(8, 4, 4, 2, 1)
        self.head = nn.Conv1d(4, 4, 9, padding=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(self.stem(x.flatten(2)).relu()).relu())


class Shared(nn.Module):
    """Two layers that read one tensor, the second of which may be left in float."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a, self.b = nn.Conv2d(2, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        return self.head(self.a(y).relu() + self.b(y).relu())


@pytest.mark.parametrize("make", [Upsamples, Shared])
def test_weights_left_in_float_are_floats_in_the_file(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    """ONNX Runtime would round them by itself, a code or more away."""
    overrides = [{"layers": "b", "weight_bits": 32}] if make is Shared else []
    recipe = mrecg.preset("w8a8-rtn", {"placement.overrides": overrides})
    quantized = mrecg.quantize(make(), IMAGES, recipe=recipe.for_backend("onnxruntime"))
    assert quantized.record.left_in_float == ("b" if make is Shared else "up",)
    assert_file_computes_it(quantized, tmp_path)
