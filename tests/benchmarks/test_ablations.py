"""What is taken away is really taken away, and changes no result."""

import pytest

import mrecg
import toys
from benchmarks.ablations import ABLATIONS, without


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("channels-last", "w2a4-brecq"),
        ("native-kernels", "w2a4-qdrop"),
        ("fused-clipping", "w2a4-brecq"),
        ("adam-gathered-once", "w2a4-brecq"),
        ("hand-written-gradients", "w2a4-qdrop"),
    ],
)
def test_what_makes_a_step_fast_changes_no_result(name: str, preset: str) -> None:
    """Within float noise: the same losses after a few steps. (Masks follow the memory layout, so no QDrop there.)"""
    # Adam turns the sign of a gradient that is nothing but noise into a step, as that of a range at its best is.
    settings = {
        "reconstruct.steps": 10,
        "reconstruct.batch_size": 8,
        "reconstruct.weight_scale_rate": 0.0,
    }
    recipe = mrecg.preset(preset, settings)
    losses = []
    for taken_away in (None, name):
        with without(taken_away):
            record = mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe).record
            replaced = [getattr(owner, key) is new for owner, key, new in ABLATIONS[name]]
        assert all(replaced) if taken_away else not any(replaced)
        losses.append([group.last_loss for group in record.groups])
    with pytest.raises(KeyError), without("no such thing"):
        pass
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
