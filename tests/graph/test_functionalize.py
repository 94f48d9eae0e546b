"""Captured graphs have no in-place operators and compute what the model computes."""

import pytest
import torch
from torch import Tensor, nn

import toys
from mrecg.errors import CaptureError
from mrecg.graph.capture import capture_graph


@pytest.mark.parametrize("name", toys.TOYS)
def test_no_operator_writes_into_its_input(name: str) -> None:
    captured = capture_graph(toys.make(name), toys.images(2))
    for node in captured.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            assert not node.target._schema.is_mutable
            assert node.target is not torch.ops.aten.dropout.default


def test_in_place_result_replaces_later_reads() -> None:
    class AddsInPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            y.add_(1)
            z = y * 3
            y.mul_(z)
            return y + z

    x = toys.images(2)
    captured = capture_graph(AddsInPlace(), x)
    torch.testing.assert_close(captured(x), (2 * x + 1) * (6 * x + 3) + 6 * x + 3)


def test_a_slice_written_in_place_changes_the_whole() -> None:
    class WritesSlices(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            y[:, 0].relu_()
            y[:, :, 1:3].add_(1.0)
            return y

    model, x = WritesSlices(), toys.images(3)
    assert torch.equal(capture_graph(model, x)(x), model(x))


def test_a_view_that_is_read_after_a_change_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"aten.relu_.default.*a view of it is read afterwards"):
        capture_graph(toys.ChangesWhatAViewReads(), toys.images(2))
