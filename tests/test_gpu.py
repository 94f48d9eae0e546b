"""What a CUDA device computes: the same network as the CPU, whichever way it takes its steps."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mrecg
import toys
from mrecg.paper.networks import NETWORKS, build
from mrecg.quantizers.kernels import fused

DEVICE = torch.device("cuda")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

METHODS = ["rtn", "adaround", "brecq", "qdrop", "qdrop-mrecg"]


def quantize(
    preset: str, device: torch.device, memory: int | None = None, **settings: Any
) -> mrecg.QuantizedModel:
    """Quantize a toy on a device, on images that are on the CPU."""
    budget = {"reconstruct.steps": 12, "reconstruct.batch_size": 8}
    recipe = mrecg.preset(
        preset, {**budget, **{k.replace("__", "."): v for k, v in settings.items()}}
    )
    model = toys.make("residual").to(device)
    return mrecg.quantize(model, toys.images(32), recipe=recipe, memory=memory)


@torch.no_grad()
def distance(one: nn.Module, other: nn.Module, images: Tensor) -> float:
    """Return the relative squared difference of two networks' outputs."""
    a = one.to(DEVICE)(images.to(DEVICE)).double()
    b = other.to(DEVICE)(images.to(DEVICE)).double()
    return float((a - b).square().sum() / b.square().sum())


@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_quantizes_as_the_cpu_does(method: str) -> None:
    """Equal up to the order of additions: steps amplify it a little, rounding to nearest hardly."""
    on_gpu, on_cpu = (quantize(f"w4a4-{method}", torch.device(name)) for name in ("cuda", "cpu"))
    tensors = [*on_gpu.model.parameters(), *on_gpu.model.buffers()]
    assert {one.device.type for one in tensors} == {"cuda"}
    assert "NVIDIA" in on_gpu.record.environment["device"]
    assert [group.units for group in on_gpu.record.groups] == [
        group.units for group in on_cpu.record.groups
    ]
    images = toys.images(16)
    float_error = distance(on_cpu.model, toys.make("residual"), images)
    assert distance(on_gpu.model, on_cpu.model, images) < (1e-3 if method == "rtn" else float_error)
    ours = distance(on_gpu.model, toys.make("residual"), images)
    assert ours < 1.5 * float_error + 1e-3


@pytest.mark.parametrize("method", ["adaround", "brecq", "qdrop", "qdrop-mrecg"])
def test_recorded_steps_are_the_steps(method: str) -> None:
    taken, recorded = (
        quantize(f"w4a4-{method}", DEVICE, reconstruct__cuda_graphs=graphs)
        for graphs in (False, True)
    )
    for one, other in zip(taken.record.groups, recorded.record.groups, strict=True):
        assert (one.units, one.steps) == (other.units, other.steps)
        assert one.first_loss == pytest.approx(other.first_loss, rel=1e-4)
        assert one.last_loss == pytest.approx(other.last_loss, rel=0.02)
    assert distance(recorded.model, taken.model, toys.images(16)) < 0.01


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("method", ["brecq", "qdrop"])
def test_fused_kernels_take_the_steps_of_torch(
    method: str, graphs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each kernel computes, `quantizers/test_fused_kernels.py` compares."""
    pytest.importorskip("triton")
    ours = quantize(f"w4a4-{method}", DEVICE, reconstruct__cuda_graphs=graphs)
    monkeypatch.setattr(fused, "fits", lambda tensor: False)
    theirs = quantize(f"w4a4-{method}", DEVICE, reconstruct__cuda_graphs=graphs)
    kernels = [one.record.environment["kernels"] for one in (ours, theirs)]
    assert kernels == ["triton", "torch"]
    for one, other in zip(ours.record.groups, theirs.record.groups, strict=True):
        assert one.first_loss == pytest.approx(other.first_loss, rel=1e-4)
        assert one.last_loss == pytest.approx(other.last_loss, rel=0.02)
    assert distance(ours.model, theirs.model, toys.images(16)) < 0.01


@pytest.mark.parametrize("precision", ["float32", "tfloat32", "bfloat16"])
@pytest.mark.parametrize("graphs", [False, True])
def test_every_precision_learns(precision: str, graphs: bool) -> None:
    found = quantize(
        "w4a4-qdrop",
        DEVICE,
        reconstruct__precision=precision,
        reconstruct__cuda_graphs=graphs,
        reconstruct__steps=40,
    )
    nearest = sum(unit.nearest_loss for unit in found.record.units)
    assert sum(unit.loss for unit in found.record.units) < nearest


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("memory", [None, 1])
def test_a_device_without_room_changes_nothing(
    memory: int | None, graphs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the host holds the activations, or files do."""
    free = quantize("w4a4-qdrop", DEVICE, reconstruct__cuda_graphs=graphs)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    full = quantize("w4a4-qdrop", DEVICE, memory, reconstruct__cuda_graphs=graphs)
    for one, other in zip(free.record.groups, full.record.groups, strict=True):
        assert one.last_loss == pytest.approx(other.last_loss, rel=0.02)


@pytest.mark.parametrize("learn", ["scales", "codes"])
def test_the_network_as_a_whole_comes_nearer(learn: str) -> None:
    found = quantize("w2a4-qdrop", DEVICE, network__learn=learn, network__steps=60)
    stage = found.record.network
    assert stage is not None
    assert stage.accepted == (stage.divergence_after < stage.divergence_before)


def test_a_run_from_a_gpu_is_read_on_any_machine(tmp_path: Path) -> None:
    made = quantize("w4a4-qdrop", DEVICE)
    made.save(tmp_path / "run")
    read = mrecg.load(tmp_path / "run")
    images = toys.images(16)
    assert {one.device.type for one in read.model.buffers()} <= {"cpu"}
    assert torch.equal(copy.deepcopy(made.model).cpu()(images), read.model(images))
    assert torch.equal(read.model.to(DEVICE)(images.to(DEVICE)), made.model(images.to(DEVICE)))


def test_evaluation_and_export_take_a_model_on_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    made = quantize("w4a4-rtn", DEVICE)
    images, labels = toys.images(16), torch.arange(16) % 5
    found = mrecg.evaluate(made.model, [(images, labels)])
    assert found == mrecg.evaluate(copy.deepcopy(made.model).cpu(), [(images, labels)])
    mrecg.export_onnx(made, tmp_path / "model.onnx")
    assert mrecg.verify_onnx(made, tmp_path / "model.onnx", images).top1_agreement_ties_apart == 100


def test_powers_of_two_and_logarithms() -> None:
    settings = {"activation__power_of_two": True, "weight__power_of_two": True}
    made = quantize("w4a4-brecq", DEVICE, **settings)
    scales = [scale for one in made.record.quantizers for scale in one.scales]
    assert all(math.log2(scale).is_integer() for scale in scales)
    recipe = mrecg.preset("w8a8-brecq", {"reconstruct.steps": 4}).for_backend("nnie")
    model, images = toys.make("functional-residual").to(DEVICE), toys.images(32)
    logarithmic = mrecg.quantize(model, images, recipe=recipe)
    assert distance(logarithmic.model, model, images) < 0.1


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.endswith("_small")])
def test_networks_of_the_paper(name: str) -> None:
    torch.manual_seed(0)
    channels = NETWORKS[name].preprocessing.channels
    images = torch.randn(16, channels, 28, 28)
    budget = {"reconstruct.steps": 4, "reconstruct.batch_size": 8, "reconstruct.cuda_graphs": True}
    recipe = mrecg.preset("w4a4-qdrop-mrecg", budget)
    made = mrecg.quantize(build(name).to(DEVICE), images, recipe=recipe)
    assert made.model(images.to(DEVICE)).isfinite().all()
