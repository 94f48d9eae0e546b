"""Scalars as TensorBoard's own reader finds them."""

import importlib
import sys
from pathlib import Path

import pytest

import mrecg
import toys
from mrecg.errors import MrecgError
from quick import quick


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the package, on import
def test_losses_become_scalars(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = quick("w2a4-qdrop", reconstruct__early_stop=False)
    with mrecg.TensorBoard(tmp_path) as board:
        model, x = toys.make("chain"), toys.images(16)
        record = mrecg.quantize(model, x, recipe=recipe, progress=board).record
    found = reader.EventAccumulator(str(tmp_path))
    found.Reload()
    ends = found.Scalars("tune/group ends")
    losses = {unit.name: unit.relative_loss for unit in record.units}
    expected = [100 * losses[group.units[-1]] for group in record.groups]
    assert [one.value for one in ends] == pytest.approx(expected, rel=1e-5)
    for group in record.groups:
        steps = [one.step for one in found.Scalars(f"tune/{' + '.join(group.units)}")]
        assert steps == sorted(steps)
        assert steps[-1] == group.steps
    assert record.network is not None
    (divergence,) = found.Scalars("network/divergence")
    assert divergence.value == pytest.approx(record.network.divergence_after, rel=1e-5)


def test_the_package_and_the_folder_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    importlib.import_module("torch")
    with pytest.raises(MrecgError, match="is an int, expected a str or a Path"):
        mrecg.TensorBoard(3)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MrecgError, match=r"pip install 'mrecg\[tensorboard\]'"):
        mrecg.TensorBoard(tmp_path)
