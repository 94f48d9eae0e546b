"""Every layer is seen, whatever runs around it: modes, checkpoints, numbers read off tensors; what cannot be is named."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import mrecg
import toys
from mrecg.errors import CaptureError, ModelError

Middle = Callable[[nn.Module, Tensor], Tensor]


class Around(nn.Module):
    """Three convolutions; the second runs inside of what it is given."""

    def __init__(self, middle: Middle = lambda layer, x: layer(x), **parts: Any) -> None:
        super().__init__()
        self.middle = middle
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.c = nn.Conv2d(4, 3, 1)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.middle(self.b, self.a(x).relu()).float().relu())


class Decorated(Around):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class UnderAutocast(Around):
    @torch.autocast("cpu", torch.bfloat16)
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def under(mode: Callable[[], Any]) -> Middle:
    def run(layer: nn.Module, x: Tensor) -> Tensor:
        with mode():
            return layer(x)

    return run


def nested(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            return layer(y.to(torch.bfloat16)) + y


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "no_grad": lambda: Around(under(torch.no_grad)),
    "no_grad on the forward": Decorated,
    "inference mode": lambda: Around(under(torch.inference_mode)),
    "autocast": lambda: Around(under(lambda: torch.autocast("cpu", torch.bfloat16))),
    "autocast on the forward": UnderAutocast,
    "autocast off": lambda: Around(under(lambda: torch.autocast("cpu", enabled=False))),
    "autocast under no_grad": lambda: Around(nested),
    "checkpoint": lambda: Around(lambda layer, x: checkpoint(layer, x, use_reentrant=False)),
    "reentrant checkpoint": lambda: Around(
        lambda layer, x: checkpoint(layer, x, use_reentrant=True)
    ),
}


def quantize(model: nn.Module) -> mrecg.QuantizedModel:
    return mrecg.quantize(model, toys.images(16), recipe=mrecg.preset("w8a8-rtn"))


def relative_error(model: nn.Module, quantized: mrecg.QuantizedModel) -> float:
    x = toys.images(16)
    with torch.no_grad():
        wanted = model.eval()(x)
    return float((quantized.model(x) - wanted).norm() / wanted.norm())


def weights_of(quantized: mrecg.QuantizedModel) -> set[str]:
    return {one.tensor for one in quantized.record.quantizers if one.kind == "weight"}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_layer_is_quantized(name: str) -> None:
    torch.manual_seed(0)
    model = WRAPPED[name]()
    quantized = quantize(model)
    assert weights_of(quantized) == {"a.weight", "b.weight", "c.weight"}
    assert quantized.record.left_in_float == ()
    assert relative_error(model, quantized) < 0.02  # of which bfloat16 has some


def test_a_network_with_autocast_inside_is_a_float32_file(tmp_path: Any) -> None:
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    quantized = quantize(WRAPPED["autocast"]())
    path = mrecg.export_onnx(quantized, tmp_path / "model.onnx")
    found = mrecg.verify_onnx(quantized, path, toys.images(8), repeats=0)
    assert set(found.integer_layers) | set(found.float_layers) == {"a", "b", "c"}
    assert mrecg.load(quantized.save(tmp_path / "run")).model is not None


class Follows(nn.Module):
    """A convolution, and a part that works on its tokens."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.conv, self.part = nn.Conv2d(4, 4, 3, padding=1), part

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        if isinstance(self.part, nn.Bilinear):
            made = self.part(tokens, tokens)
        elif isinstance(self.part, nn.ParameterList):
            made = torch.einsum("nlc,cd->nld", tokens, self.part[0])
        else:
            made = self.part(tokens)[0]
        return made.transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (nn.LSTM(4, 4, batch_first=True), "b.part"),
        (nn.GRU(4, 4, batch_first=True), "b.part"),
        (nn.Bilinear(4, 4, 4), "b.part"),
        (nn.ParameterList([torch.eye(4)]), "b"),
    ],
    ids=["lstm", "gru", "bilinear", "einsum"],
)
def test_what_is_multiplied_in_float_is_listed(part: nn.Module, name: str) -> None:
    """Recurrent layers and products with a parameter are no layers that have a grid."""
    torch.manual_seed(0)
    model = Around()
    model.b = Follows(part)  # type: ignore[assignment]
    quantized = quantize(model)
    assert quantized.record.left_in_float == (name,)
    assert relative_error(model, quantized) < 0.02


class Reads(nn.Module):
    """Reads numbers off its own buffers."""

    def __init__(self, function: Callable[["Reads", Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.conv, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 1)
        self.register_buffer("sizes", torch.tensor([1, 3]))
        self.register_buffer("table", torch.tensor([[1, 3], [2, 2]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self, self.conv(x)))


def swapped(model: Reads, x: Tensor) -> Tensor:
    for row in model.table.tolist():
        x = torch.cat(x.split(row, 1)[::-1], 1)
    return x


READS: dict[str, Callable[[Reads, Tensor], Tensor]] = {
    "list": lambda model, x: torch.cat(x.split(model.sizes.tolist(), 1)[::-1], 1),
    "table": swapped,
    "int": lambda model, x: torch.cat([x[:, int(model.sizes[0]) :], x[:, :1]], 1),
    "computed": lambda model, x: x[:, :, : (2 * model.sizes).sum().item()],  # type: ignore[misc]
    "index": lambda model, x: x.reshape(x.shape[0], model.sizes[0] * 4, 64).reshape(x.shape),
    "branch": lambda model, x: x.relu() if model.sizes[0] == 1 else -x,
    "branch and list": lambda model, x: (
        torch.cat(x.split(model.sizes.tolist(), 1)[::-1], 1) if model.sizes[0] else x
    ),
}


@pytest.mark.parametrize("name", READS)
def test_numbers_that_a_network_reads_off_its_buffers(name: str) -> None:
    torch.manual_seed(0)
    model = Reads(READS[name])
    assert relative_error(model, quantize(model)) < 0.02


def written(model: Reads, x: Tensor) -> Tensor:
    """The number is read off a tensor that a view wrote images into."""
    sums = torch.zeros(3)
    sums[1:][0] = x.sum()
    return x if sums.sum() > 0 else -x


@pytest.mark.parametrize(
    "function", [written, lambda model, x: x if x.sum() > model.sizes[0] else -x]
)
def test_numbers_of_images_are_not_kept(function: Callable[[Reads, Tensor], Tensor]) -> None:
    with pytest.raises(CaptureError, match="data-dependent"):
        quantize(Reads(function))


@pytest.mark.parametrize(
    ("middle", "operator"),
    [
        (lambda layer, x: functional.dropout(layer(x)), "dropout"),
        (lambda layer, x: functional.dropout2d(layer(x)), "feature_dropout"),
        (lambda layer, x: functional.rrelu(layer(x), training=True), "rrelu"),
        (lambda layer, x: layer(x) + torch.randn_like(x), "randn_like"),
        (lambda layer, x: layer(x) * torch.rand(4, 1, 1), "rand"),
        (lambda layer, x: layer(x) + torch.empty_like(x).normal_(), "normal_"),
        (lambda layer, x: layer(x) * torch.bernoulli(torch.full((4, 1, 1), 0.5)), "bernoulli"),
    ],
)
def test_random_numbers_are_refused(middle: Middle, operator: str) -> None:
    message = rf"draws random numbers in evaluation: aten\.{operator}\..* in .*self\.training"
    with pytest.raises(CaptureError, match=message):
        quantize(Around(middle))


def test_dropout_of_nothing_is_dropped() -> None:
    torch.manual_seed(0)
    model = Around(lambda layer, x: functional.dropout(layer(x), 0.0))
    assert relative_error(model, quantize(model)) < 0.01


def test_a_part_that_branches_on_values_is_refused() -> None:
    def branch(layer: nn.Module, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: layer(x), lambda x: layer(-x), (x,))

    with pytest.raises(CaptureError, match=r"under torch's operator 'cond'.*plain operators"):
        quantize(Around(branch))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_scripted_parts_are_refused() -> None:
    model = Around()
    model.b = torch.jit.trace(model.b, torch.zeros(1, 4, 8, 8))  # type: ignore[assignment]
    with pytest.raises(
        ModelError, match=r"part 'b' is a .*; give the module that it was made from"
    ):
        quantize(model)


def test_a_vendors_quantizer_that_cannot_take_a_layer_called_twice() -> None:
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    with pytest.raises(
        CaptureError, match=r"cannot annotate the model: .*each call of twice a layer"
    ):
        mrecg.quantize(
            toys.make("shared"),
            toys.images(16),
            recipe=mrecg.preset("w8a8-rtn"),
            quantizer=quantizer,
        )
