"""Training goes on from a quantized model's outputs to the bit, and comes back as a run that saves, exports and verifies."""

import functools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import mrecg
import toys
from mrecg.errors import ModelError, RunError
from mrecg.quantizers.straight_through import fake_quantize
from mrecg.records.evaluation import Evaluation
from mrecg.runs.folder import QuantizedModel


@functools.cache
def quantized_toy(toy: str, preset: str = "w2a2-rtn", **settings: object) -> QuantizedModel:
    recipe = mrecg.preset(preset, {key.replace("__", "."): one for key, one in settings.items()})
    return mrecg.quantize(toys.make(toy), toys.images(32), recipe=recipe)


def first_of(outputs: object) -> Tensor:
    while not isinstance(outputs, Tensor):
        outputs = next(iter(outputs.values() if isinstance(outputs, dict) else outputs))  # type: ignore[attr-defined, call-overload]
    return outputs


def train(module: nn.Module, wanted: Tensor, steps: int, rate: float = 0.005) -> None:
    """Train in batches of 16 towards classes, or towards logits."""
    x = toys.images(len(wanted), seed=5)
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    distance = functional.mse_loss if wanted.is_floating_point() else functional.cross_entropy
    for step in range(steps):
        batch = (torch.arange(16) + 16 * step) % len(x)
        loss = distance(first_of(module(x[batch])), wanted[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


ANY = torch.arange(16) % 5


@pytest.mark.parametrize("toy", ["residual", "shared", "two-outputs", "vit"])
def test_graphs_start_and_come_back_to_the_bit(toy: str) -> None:
    quantized, x = quantized_toy(toy), toys.images(20, seed=2)
    before = first_of(quantized.model(x))
    module = quantized.trainable()
    assert torch.equal(first_of(module(x)), before)
    train(module, ANY, steps=2)
    found = mrecg.from_trained(module)
    with torch.no_grad():
        assert torch.equal(first_of(found.model(x)), first_of(module.eval()(x)))
    assert found.record.training is not None
    assert found.record.training.changed > 0
    assert torch.equal(first_of(quantized.model(x)), before)  # shares nothing


def test_training_lowers_the_loss_and_the_run_saves_exports_and_verifies(tmp_path: Path) -> None:
    module = quantized_toy("residual").trainable()
    x = toys.images(512, seed=5)
    with torch.no_grad():
        logits = toys.make("residual")(x)
        first = functional.mse_loss(module(x), logits)
        with torch.enable_grad():
            train(module, logits, steps=32)  # an epoch
        assert functional.mse_loss(module(x), logits) < 0.5 * first
    before, after = Evaluation(50, 10, 50), Evaluation(50, 12, 50)
    found = mrecg.from_trained(
        module, accuracy=after, float_accuracy=before, folder=tmp_path / "run"
    )
    loaded = mrecg.load(tmp_path / "run")
    assert loaded.record == found.record
    assert loaded.record.accuracy["quantized"] == after
    x = toys.images(50, seed=3)
    assert torch.equal(loaded.model(x), found.model(x))
    path = mrecg.export_onnx(loaded, tmp_path / "model.onnx")
    assert mrecg.verify_onnx(loaded, path, x, repeats=0).top1_agreement_ties_apart == 100
    again = loaded.trainable()
    assert torch.equal(again(x), module(x))
    assert "trained further" in (tmp_path / "run" / "report.html").read_text()


def test_a_state_dict_goes_through_a_file_and_a_wrapper_is_looked_into(tmp_path: Path) -> None:
    quantized, x = quantized_toy("residual"), toys.images(8)
    module = quantized.trainable()
    train(module, ANY, steps=2)
    torch.save(module.state_dict(), tmp_path / "trained.pt")
    again = quantized.trainable()
    again.load_state_dict(torch.load(tmp_path / "trained.pt", weights_only=True))
    found = mrecg.from_trained(nn.Sequential(again))
    assert torch.equal(found.model(x), module(x))
    with pytest.raises(ModelError, match=r"holds 0 models from quantized\.trainable\(\)"):
        mrecg.from_trained(nn.Linear(2, 2))


def test_what_a_target_prescribes_stays() -> None:
    """Scales that are powers of two, and one scale for a whole weight; images of 8 bits are read as they are."""
    recipe = mrecg.preset("w4a4-rtn", {"placement.per_channel_weights": False})
    module = mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe).trainable()
    scales = dict(module.network.named_modules())
    assert scales["quantize_x"].factor is None
    train(module, ANY, steps=2)
    found = mrecg.from_trained(module)
    weights = [one for one in found.record.quantizers if one.kind == "weight"]
    assert all(one.scales[0] == one.scales[1] for one in weights)
    assert {one.name for one in found.record.quantizers} >= set(
        found.trainable().origin.activations.values()
    )
    recipe = mrecg.preset("w8a8-rtn").for_backend("vitis")
    module = mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe).trainable()
    assert not [name for name, _ in module.named_parameters() if name.endswith("factor")]


def test_no_gradient_reaches_logarithmic_codes() -> None:
    recipe = mrecg.preset("w8a8-rtn").for_backend("nnie")
    quantized = mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe)
    with pytest.raises(ModelError, match="its codes are logarithmic"):
        quantized.trainable()


def test_training_that_diverged_is_refused() -> None:
    module = quantized_toy("residual").trainable()
    with torch.no_grad():
        next(module.parameters()).fill_(torch.nan)
    with pytest.raises(ModelError, match=r"is NaN or infinite: its training diverged"):
        mrecg.from_trained(module)
    with pytest.raises(RunError, match="give it as float_accuracy"):
        mrecg.from_trained(quantized_toy("residual").trainable(), accuracy=Evaluation(50, 10, 50))


def test_gradients_are_those_of_lsq() -> None:
    """Equation 3 by hand: inside of the range c − t, outside the end; times 1/√(n · levels)."""
    x = torch.tensor([0.3, 0.8, -1.0, 9.0], requires_grad=True)
    scale = torch.tensor([0.5], requires_grad=True)
    y = fake_quantize(x, scale, 1.0, 0, 3)  # codes from −1 to 2
    assert y.tolist() == [0.5, 1.0, -0.5, 1.0]
    y.sum().backward()
    assert x.grad is not None
    assert scale.grad is not None
    assert x.grad.tolist() == [1, 1, 0, 0]
    by_hand = (1 - 0.6) + (2 - 1.6) - 1 + 2
    assert scale.grad.item() == pytest.approx(by_hand / (4 * 3) ** 0.5)
