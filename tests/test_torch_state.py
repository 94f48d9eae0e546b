"""Global states of torch: what optimization chooses, such as bfloat16 or TF32, neither leaks nor reaches measurements."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import mrecg
import toys
from mrecg import torch_state
from mrecg.cache import activation_cache
from mrecg.config.recipe import Recipe
from mrecg.optimize import network_objective
from mrecg.quantizers.kernels.functions import _FakeQuantize


def recipe(preset: str, precision: str, backend: str | None) -> Recipe:
    settings = {
        "reconstruct.steps": 40,
        "reconstruct.batch_size": 8,
        "reconstruct.precision": precision,
    }
    found = mrecg.preset(preset, settings)
    return found.for_backend(backend) if backend else found


@pytest.mark.parametrize(
    ("network", "preset", "backend"),
    [
        ("residual", "w3a4-brecq", None),
        ("residual", "w3a4-qdrop-mrecg", None),
        ("vit", "w4a4-qdrop", None),
        ("residual", "w8a8-brecq", "nnie"),
    ],
)
def test_bfloat16_changes_little(network: str, preset: str, backend: str | None) -> None:
    found = {
        precision: mrecg.quantize(
            toys.make(network), toys.images(32), recipe=recipe(preset, precision, backend)
        )
        for precision in ("float32", "bfloat16")
    }
    single, half = (quantized.record for quantized in found.values())
    assert single.groups[1].last_loss != half.groups[1].last_loss
    for name in ("nearest_loss", "loss"):
        losses = [sum(getattr(unit, name) for unit in record.units) for record in (single, half)]
        assert losses[1] == pytest.approx(losses[0], rel=0.3)
    shipped = found["bfloat16"].model
    assert {one.dtype for one in shipped.state_dict().values()} <= {
        torch.float32,
        torch.uint8,
        torch.int8,
        torch.int32,
    }
    assert shipped(toys.images(4)).dtype == torch.float32


def test_what_is_measured_is_measured_in_float32() -> None:
    """Without a step to learn in, the precision of learning decides nothing."""
    records = [
        mrecg.quantize(
            toys.make("residual"),
            toys.images(32),
            recipe=mrecg.preset("w8a8-rtn", {"reconstruct.precision": precision}),
        ).record
        for precision in ("float32", "bfloat16")
    ]
    assert records[0].units == records[1].units


def multiplied_in() -> tuple[str, str]:
    return (
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
    )


@pytest.mark.parametrize(("name", "wanted"), [("float32", "ieee"), ("tfloat32", "tf32")])
def test_what_is_multiplied_in_tfloat32(
    name: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tuning, forward and backward, where it is chosen; what a run measures never is."""
    seen: dict[str, set[tuple[str, str]]] = {}

    def watch(owner: ModuleType | type, attribute: str) -> None:
        function = getattr(owner, attribute)

        def watched(*arguments: Any) -> Any:
            seen.setdefault(f"{owner.__name__}.{attribute}", set()).add(multiplied_in())
            return function(*arguments)

        replacement: Callable[..., Any] = watched
        if isinstance(owner, type):
            replacement = staticmethod(watched)
        monkeypatch.setattr(owner, attribute, replacement)

    before = multiplied_in()
    monkeypatch.setattr(torch_state, "_has_tfloat32", lambda device: True)
    watch(_FakeQuantize, "forward")
    watch(_FakeQuantize, "backward")
    watch(activation_cache, "run_quantized_units")  # measures hard codes
    watch(
        network_objective, "run_quantized_units"
    )  # measures before the first and after the last step, too
    settings = {"reconstruct.steps": 4, "reconstruct.batch_size": 8, "reconstruct.precision": name}
    mrecg.quantize(
        toys.make("residual"), toys.images(16), recipe=mrecg.preset("w4a4-qdrop", settings)
    )
    assert seen == {
        "_FakeQuantize.forward": {(wanted, wanted)},
        "_FakeQuantize.backward": {(wanted, wanted)},
        "mrecg.cache.activation_cache.run_quantized_units": {("ieee", "ieee")},
        "mrecg.optimize.network_objective.run_quantized_units": {
            (wanted, wanted),
            ("ieee", "ieee"),
        },
    }
    assert multiplied_in() == before


def test_settings_of_the_process_are_put_back() -> None:
    gpu = torch.device("cuda", 0)
    names = ("float32", "tfloat32")
    before = multiplied_in()
    for name in names:
        with torch_state.compute_precision(name, torch.device("cpu")):
            assert multiplied_in() == before
        with contextlib.suppress(ZeroDivisionError), torch_state.matmul_precision(name, gpu):
            assert multiplied_in() == {"float32": ("ieee",) * 2, "tfloat32": ("tf32",) * 2}[name]
            raise ZeroDivisionError
        assert multiplied_in() == before


def test_accuracy_is_counted_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch computes convolutions on CUDA devices in TF32 unless it is told not to."""
    monkeypatch.setattr(torch_state, "_has_tfloat32", lambda device: True)
    seen = set()

    class Watched(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.add(multiplied_in())
            return x.flatten(1)[:, :5]

    before = multiplied_in()
    mrecg.evaluate(Watched(), [(toys.images(4), torch.zeros(4, dtype=torch.long))])
    assert seen == {("ieee", "ieee")}
    assert multiplied_in() == before


RANDOM_STATES = """
import random
import numpy
import rich.style  # draws a number when it is imported
import torch
import mrecg
import toys

def states():
    return random.getstate(), repr(numpy.random.get_state()), torch.get_rng_state().tolist()

found = []
settings = {"reconstruct.steps": 12, "reconstruct.batch_size": 8}
model, images = toys.make("residual"), toys.images(32)
for seed in (0, 1):
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    before = states()
    recipe = mrecg.preset("w2a4-qdrop-mrecg", settings)
    found.append(mrecg.quantize(model, images, recipe=recipe).model.state_dict())
    assert [*map(str, states())] == [*map(str, before)]
assert found[0].keys() == found[1].keys()
assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
"""


def test_quantize_neither_changes_nor_reads_the_global_random_states() -> None:
    """Batches, masks and samples come from the recipe's seed. A process of its own: beartype, which checks shapes in
    this one, draws from `random`."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    subprocess.run(
        [sys.executable, "-c", RANDOM_STATES], check=True, env=os.environ | {"PYTHONPATH": path}
    )
