"""Grids go where a layer gains by them: not into arithmetic in float, not behind the last layers, and not into what is returned."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import mrecg
import toys
from mrecg.errors import RecipeError
from mrecg.runs.folder import QuantizedModel

PLACEMENTS = ["academic", "onnxruntime", "tensorrt", "xnnpack", "snpe"]


def quantized(
    model: nn.Module,
    placement: str,
    bits: str = "w8a8",
    x: Tensor | None = None,
    **settings: object,
) -> QuantizedModel:
    """Round to nearest."""
    recipe = mrecg.preset(f"{bits}-rtn")
    if placement != "academic":
        recipe = recipe.for_backend(placement)
    recipe = recipe.override({key.replace("__", "."): one for key, one in settings.items()})
    return mrecg.quantize(model.eval(), toys.images(16) if x is None else x, recipe=recipe)


def relative_error(made: Tensor, wanted: Tensor) -> float:
    return float((made - wanted).norm() / wanted.norm())


def read_bits(run: QuantizedModel, layer: str) -> int:
    """The width of what a layer reads."""
    (found,) = (q for q in run.record.quantizers if q.kind == "activation" and layer in q.readers)
    return (found.high - found.low).bit_length()


class Normalized(nn.Module):
    """Convolutions with a normalization over channels between them, of numbers whose mean is large."""

    def __init__(self, normalize: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.weight, self.bias = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.rand(8))
        self.fc = nn.Linear(8, 5)
        self.normalize = normalize

    def forward(self, x: Tensor) -> Tensor:
        x = 5 + self.a(x).permute(0, 2, 3, 1)
        x = self.normalize(x, self.weight, self.bias).permute(0, 3, 1, 2)
        x = self.b(x).permute(0, 2, 3, 1)
        return self.fc(self.normalize(x, self.weight, self.bias).mean((1, 2)))


def written_out(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return weight * (centered / (centered.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()) + bias


def root_mean_square(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * weight + bias


def unit_length(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6) * weight + bias


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_normalization_that_is_written_out_is_as_exact_as_the_operator(placement: str) -> None:
    """With grids inside, the variance was lost: an error of 0.5 to 1."""
    x, errors = toys.images(16), []
    for normalize in (
        written_out,
        lambda x, weight, bias: functional.layer_norm(x, (8,), weight, bias),
    ):
        model = Normalized(normalize)
        errors.append(relative_error(quantized(model, placement).model(x), model(x).detach()))
    assert errors[0] == pytest.approx(errors[1], rel=0.05)
    assert errors[0] < 0.03


@pytest.mark.parametrize("normalize", [root_mean_square, unit_length])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_other_norms_that_are_written_out(
    normalize: Callable[[Tensor, Tensor, Tensor], Tensor], placement: str
) -> None:
    model, x = Normalized(normalize), toys.images(16)
    assert relative_error(quantized(model, placement).model(x), model(x).detach()) < 0.03


class Detector(nn.Module):
    """As YOLOv8: distributions of box sides, integrated and decoded, next to scores in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(2, 16, 3, padding=1), nn.SiLU())
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.SiLU())
        self.box, self.score = nn.Conv2d(16, 32, 1), nn.Conv2d(16, 3, 1)
        self.integral = nn.Conv2d(8, 1, 1, bias=False)
        self.integral.weight.data = torch.arange(8.0).view(1, 8, 1, 1)
        place = torch.arange(8) + 0.5
        centers = torch.stack([place.repeat(8), place.repeat_interleave(8)])
        self.register_buffer("centers", centers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x))
        sides = 4 * self.box(x).view(-1, 4, 8, 64).transpose(2, 1)
        left, right = self.integral(sides.softmax(1)).view(-1, 4, 64).chunk(2, 1)
        low, high = self.centers - left, self.centers + right
        boxes = torch.cat([(low + high) / 2, high - low], 1) * 40
        return torch.cat([boxes, self.score(x).flatten(2).sigmoid()], 1)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_boxes_and_scores_are_decoded_in_float(placement: str) -> None:
    """Boxes up to 320 and scores up to 1 on one grid left 2 of 19 boxes."""
    model, x = Detector(), toys.images(16)
    run = quantized(model, placement)
    made, wanted = run.model(x), model(x).detach()
    assert float((made - wanted)[:, :4].abs().max()) < 6  # of 320
    assert float((made - wanted)[:, 4:].abs().max()) < 0.02
    assert run.record.left_in_float == ("integral",)


def test_the_last_layers_are_all_whose_results_leave_the_network() -> None:
    run = quantized(Detector(), "onnxruntime", "w4a4")
    bits = {q.tensor: (q.high - q.low).bit_length() for q in run.record.quantizers}
    assert {name for name in bits if name.endswith("weight") and bits[name] == 8} == {
        f"{name}.weight" for name in ("stem.0", "box", "score")
    }
    assert bits["body.0.weight"] == 4
    assert read_bits(run, "box") == 8
    assert read_bits(run, "body.0") == 4


class Pyramid(nn.Module):
    """Returns what layers read, too: as it is, reshaped, and normalized."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        low = self.a(x).relu()
        high = self.b(low).relu()
        return self.c(high), high, low.flatten(2).softmax(1), high.permute(0, 2, 3, 1)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_what_is_returned_and_read_leaves_at_float_precision(placement: str) -> None:
    run = quantized(Pyramid(), placement, "w8a4", placement__first_last="same")
    _, high, softened, turned = run.model(toys.images(16))
    assert len(high.unique()) > 1000
    assert torch.equal(turned, high.permute(0, 2, 3, 1))
    assert len(softened.unique()) > 1000
    assert read_bits(run, "c") == 4


class Branches(nn.Module):
    """Two convolutions, joined by a module without layers."""

    class Join(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return torch.cat([a + b, b], 1)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 4, 3, padding=1)
        self.join = self.Join()
        self.c = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.join(self.a(x), self.b(x)))


def override(pattern: str, **bits: object) -> dict[str, object]:
    return {"placement__overrides": [{"layers": pattern, **bits}]}


def widths(run: QuantizedModel) -> dict[str, int]:
    found = (q for q in run.record.quantizers if q.kind == "activation")
    return {q.tensor: (q.high - q.low).bit_length() for q in found}


def test_an_override_names_a_module_an_operator_or_a_kind() -> None:
    usual = widths(quantized(Branches(), "xnnpack", "w8a4", placement__first_last="same"))
    assert set(usual.values()) == {4}
    assert {"a:conv2d", "b:conv2d_1", "join:add", "join:cat"} < usual.keys()
    for pattern, wide in {
        "join": {"a:conv2d", "b:conv2d_1", "join:add"},
        "join:add": {"a:conv2d", "b:conv2d_1"},
        "aten.cat": {"b:conv2d_1", "join:add"},
        "*:cat": {"b:conv2d_1", "join:add"},
    }.items():
        settings = override(pattern, activation_bits=8) | {"placement__first_last": "same"}
        found = widths(quantized(Branches(), "xnnpack", "w8a4", **settings))
        assert {name for name, bits in found.items() if bits == 8} == wide, pattern


def test_float_leaves_out_what_an_operator_reads() -> None:
    for bits in ("float", 32):
        run = quantized(Branches(), "tensorrt", **override("join", activation_bits=bits))
        assert widths(run) == {"x": 8, "join:cat": 8}  # what the layers read
    run = quantized(
        Branches(), "xnnpack", **override("c", activation_bits="float", weight_bits="float")
    )
    assert "c:conv2d_2" not in widths(run)
    assert run.record.left_in_float == ("c",)


@pytest.mark.parametrize(
    ("pattern", "bits", "message"),
    [
        (
            "neck",
            {"activation_bits": 8},
            "'neck' matches no layer, module or operator.*layers: a, b, c",
        ),
        ("join", {"weight_bits": 8}, "'join' sets weight_bits, but names nothing with a weight"),
        ("join", {"activation_bits": "double"}, "activation_bits"),
    ],
)
def test_an_override_that_means_nothing_is_refused(
    pattern: str, bits: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        quantized(Branches(), "onnxruntime", **override(pattern, **bits))
