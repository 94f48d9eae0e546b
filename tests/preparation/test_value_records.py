"""What the record tells of codes and activations: every value is counted once, and lost channels are found."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mrecg
import toys
from mrecg.preparation.value_records import describe_activation, describe_weight
from mrecg.quantizers.activation_sample import ActivationSample, Distribution
from mrecg.quantizers.grid import Scaling, UniformGrid
from mrecg.quantizers.logarithmic import LogarithmicGrid, logarithmic_scaling
from mrecg.quantizers.weight import WeightState
from quick import GROUPS_ALONE, quick, run


def scaling(scale: float, zero_point: float = 0.0) -> Scaling:
    return Scaling(torch.tensor(scale), torch.tensor(zero_point))


def distribution(*channels: list[float]) -> Distribution:
    sample = ActivationSample(1024)
    sample.add([torch.tensor(channels).T.contiguous()], len(channels[0]), [1])
    return sample.distribution()


def test_codes_are_counted() -> None:
    codes = torch.tensor([[0.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 0.0, 2.0]])
    per_channel = Scaling(torch.full((3, 1), 0.5), torch.full((3, 1), 2.0))
    found = describe_weight(UniformGrid(0, 3, False), WeightState(codes, per_channel), 0)
    assert found.counts == (2, 2, 4, 1)
    assert (found.channels, found.dead) == (3, 1)
    assert (found.low, found.high) == (0, 3)


@pytest.mark.parametrize("bits", [6, 8, 16])
def test_many_codes_share_parts(bits: int) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    codes = torch.arange(low, high + 1.0)[:, None]
    state = WeightState(codes, Scaling(torch.ones(1, 1), torch.zeros(1, 1)))
    found = describe_weight(UniformGrid(low, high, True), state, 0)
    assert found.counts == (2**bits // 64,) * 64


def test_an_activation_is_counted_against_its_range() -> None:
    grid = UniformGrid(0, 15, False)
    found = describe_activation(grid, scaling(0.1), distribution([0.0, 0.75, 1.5, 1.6, 9.0, -0.1]))
    assert (found.low, found.high) == (0.0, pytest.approx(1.5))
    assert len(found.counts) == 48
    assert sum(found.counts) == 6
    assert sum(found.counts[:8]) == 1
    assert sum(found.counts[-8:]) == 2
    assert found.counts[8] == 1  # a zero behind a ReLU is inside
    assert found.counts[39] == 1  # and so is the largest value of the range
    assert found.counts[-1] == 1


def test_lost_channels_are_found() -> None:
    grid = UniformGrid(0, 15, False)
    dead, half, saturated = [0.0, 0.04, -3.0], [0.0, 0.06, 0.0], [0.0, 0.0, 6.0]
    found = describe_activation(grid, scaling(0.1), distribution(dead, half, saturated))
    assert (found.channels, found.dead, found.saturated) == (3, 1, 1)
    signed = describe_activation(grid, scaling(0.1, 8.0), distribution(dead, half, saturated))
    assert (signed.dead, signed.saturated) == (0, 2)  # below zero, dead's mean is outside now


def test_logarithmic_codes() -> None:
    grid = LogarithmicGrid()
    one = logarithmic_scaling(torch.tensor(2.0))
    found = describe_activation(grid, one, distribution([0.0, 2.0, -1.0], [0.0, 0.0, 0.0]))
    assert (found.low, found.high) == (pytest.approx(-2, rel=0.05), pytest.approx(2, rel=0.05))
    assert sum(found.counts) == 6
    assert (found.channels, found.dead) == (2, 1)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_a_distribution_does_not_depend_on_batches(sizes: list[int]) -> None:
    total = sum(sizes)
    x = torch.arange(total * 3 * 4 * 4.0).reshape(total, 3, 4, 4).sin()
    found = []
    for parts in ([total], sizes):
        sample = ActivationSample(1024)
        for part in x.split(parts):
            sample.add([part], len(part), [1])
        found.append(sample.distribution())
    whole, batched = found
    assert torch.equal(whole.values, batched.values)
    assert torch.equal(whole.channel_low, x.amin((0, 2, 3)))
    assert torch.equal(batched.channel_low, whole.channel_low)
    assert torch.equal(batched.channel_high, x.amax((0, 2, 3)))
    torch.testing.assert_close(whole.channel_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(batched.channel_mean, whole.channel_mean)


def test_a_sample_without_channels_has_none() -> None:
    sample = ActivationSample(1024)
    sample.add([torch.ones(4, 3)], 4)
    assert len(sample.distribution().values) == 12
    assert len(sample.distribution().channel_mean) == 0


@pytest.mark.parametrize("toy", ["residual", "vit", "dense"])
def test_a_run_records_all_of_it(toy: str) -> None:
    quantized = run(toys.make(toy), quick("w2a4-qdrop", **GROUPS_ALONE))
    record = quantized.record
    weights = {
        name: tensor
        for name, tensor in quantized.program.state_dict.items()
        if name.endswith(".codes")
    }
    counted = [one.values for one in record.quantizers if one.kind == "weight" and one.values]
    assert sum(sum(one.counts) for one in counted) == sum(map(torch.numel, weights.values()))
    for one in record.quantizers:
        assert one.values is not None
        assert one.values.channels > 0
        assert one.values.dead + one.values.saturated <= one.values.channels
        assert len(one.values.counts) <= 64
    for group in record.groups:
        steps = [step for step, _ in group.curve]
        assert steps == list(range(1, group.steps + 1))
        assert group.curve[0][1] == pytest.approx(group.first_loss)
    assert record.size is not None
    parameters = 4 * sum(layer.parameters for unit in record.units for layer in unit.layers)
    assert parameters < record.size.float_bytes < parameters + 4000
    assert record.size.quantized_bytes < record.size.float_bytes / 2


def test_many_steps_give_few_points() -> None:
    recipe = quick("w2a4-brecq", **GROUPS_ALONE, reconstruct__steps=130)
    record = mrecg.quantize(toys.make("chain"), toys.images(16), recipe=recipe).record
    for group in record.groups:
        assert len(group.curve) == 33
        assert group.curve[-1][0] == 130
        assert [step for step, _ in group.curve[:2]] == [4, 8]
