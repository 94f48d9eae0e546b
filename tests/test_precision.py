"""Tuning in bfloat16: nearly the same result, and nothing of it stays in what is measured or shipped."""

import pytest
import torch

import mrecg
import toys
from mrecg.recipe import Recipe


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
