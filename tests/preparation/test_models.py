"""Models of every kind, and the modes of torch that their owner is in."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mrecg
import toys
from mrecg.errors import CaptureError, ModelError
from quick import quick, run


def test_a_model_without_layers() -> None:
    with pytest.raises(CaptureError, match="no convolution or linear layer"):
        run(nn.Sequential(nn.BatchNorm2d(2), nn.ReLU()), quick())


def test_a_model_that_is_one_layer() -> None:
    quantized = run(nn.Conv2d(2, 3, 3), quick("w8a8-brecq"))
    assert [unit.layers[0].kind for unit in quantized.record.units] == ["conv2d"]


def test_weights_that_are_not_finite() -> None:
    model = toys.make("chain")
    model[2].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"'2\.weight' holds NaN"):
        run(model, quick())


class Classes(nn.Module):
    """Returns what its caller asks for: logits are floats, classes and masks are not, and a mean has no batch."""

    def __init__(self, *returned: str) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 1)
        self.returned = returned

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.head(self.stem(x).relu())
        every = {"logits": y, "classes": y.argmax(1), "mask": y > 0, "mean": y.mean()}
        return tuple(every[name] for name in self.returned)


@pytest.mark.parametrize(
    "returned",
    [("classes",), ("mean",), ("logits", "classes"), ("mask", "logits", "mean")],
)
def test_results_that_are_no_signals(returned: tuple[str, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = Classes(*returned).eval(), toys.images(32)
    logits = Classes("logits").eval()
    logits.load_state_dict(model.state_dict())
    expected = run(logits, quick("w4a4-brecq"))
    quantized = run(model, quick("w4a4-brecq"))
    losses = [unit.loss for unit in quantized.record.units]
    assert losses == [unit.loss for unit in expected.record.units]
    loaded = mrecg.load(quantized.save(tmp_path / "run"))
    for found, wanted, again in zip(
        quantized.model(images), model(images), loaded.model(images), strict=True
    ):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        assert torch.equal(found, again)


def test_models_that_remember_what_they_computed() -> None:
    model = toys.make("chain")
    model.last = model(toys.images(4))  # type: ignore[assignment]
    assert model.last.requires_grad
    images = toys.images(32)
    expected = run(toys.make("chain"), quick("w4a4-rtn")).model(images)
    assert torch.equal(run(model, quick("w4a4-rtn")).model(images), expected)
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(2, 4, 3)), nn.Flatten())
    assert run(model, quick("w8a8-rtn")).record.units[0].relative_loss < 1e-3


@contextlib.contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "mode",
    [
        torch.inference_mode,
        torch.no_grad,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: default_type(torch.float64),
    ],
)
def test_the_callers_modes_change_nothing(
    mode: Callable[[], contextlib.AbstractContextManager[object]],
) -> None:
    recipe, images = quick("w4a4-qdrop-mrecg"), toys.images(32)
    expected = run(toys.make("residual"), recipe, images)
    model = toys.make("residual")
    with mode():
        found = run(model, recipe, images.clone())
    losses = [unit.loss for unit in expected.record.units]
    assert [unit.loss for unit in found.record.units] == losses
    assert torch.equal(found.model(images), expected.model(images))
    assert torch.get_default_dtype() == torch.float32
    learns = images.clone().requires_grad_()
    assert torch.equal(
        run(toys.make("residual"), recipe, learns).model(images), expected.model(images)
    )
