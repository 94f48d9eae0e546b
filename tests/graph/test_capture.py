"""Capture leaves the caller's model alone, and its errors name the module at fault."""

import copy

import pytest
import torch
from torch import Tensor, nn

import mrecg
import toys
from mrecg.errors import CaptureError
from mrecg.graph.capture import capture_graph
from mrecg.graph.layers import module_path
from mrecg.paper.networks import build


@pytest.mark.parametrize("name", toys.TOYS)
def test_capture_changes_neither_model_nor_input(name: str) -> None:
    model = toys.make(name).train()
    before, x = copy.deepcopy(model.state_dict()), toys.images(3)
    kept = x.clone()
    captured = capture_graph(model, x)
    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    results = captured(x)
    assert torch.equal(x, kept)
    expected = model.eval()(x)
    for got, wanted in zip(_tuple(results), _tuple(expected), strict=True):
        torch.testing.assert_close(got, wanted)
    assert _tuple(captured(toys.images(7)))[0].shape[0] == 7  # the batch is dynamic


def _tuple(value: object) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (toys.BranchOnData(), "in inner.1, at 'if x.sum"),
        (build("resnet18_small"), "in conv1"),
    ],
)
def test_what_cannot_be_captured_names_the_culprit(model: nn.Module, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        capture_graph(model, toys.images(2))


def test_nodes_know_their_module() -> None:
    graph = capture_graph(toys.make("residual"), toys.images(2)).graph
    paths = {module_path(node) for node in graph.nodes}
    assert {"stem", "stage.one.a", "stage.two.project", "fc"} <= paths


class _Views(nn.Module):
    """A view that exists in one memory layout only: convolutions run in another one than this was written for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).view(x.shape[0], 8, 32))


def test_views_in_any_memory_layout() -> None:
    recipe = mrecg.preset("w8a8-rtn")
    quantized = mrecg.quantize(_Views(), toys.images(), recipe=recipe)
    assert quantized.model(toys.images(3)).shape == (3, 8, 5)


class _Wrapper(nn.Module):
    """Hands on what it is given; its heads are named in two ways."""

    def __init__(self, *heads: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3)
        self.heads = nn.ModuleDict({name: nn.Linear(4, 2) for name in heads})

    def forward(self, *args: Tensor, **named: Tensor) -> dict[str, Tensor]:
        pooled = self.stem(*args, **named).mean((2, 3))
        return {name: head(pooled) for name, head in self.heads.items()}


def test_a_forward_that_hands_on_any_arguments() -> None:
    model = _Wrapper("box").eval()
    graph, x = capture_graph(model, toys.images(2)), toys.images(5)
    torch.testing.assert_close(graph(x)["box"], model(x)["box"])


def test_a_module_named_by_a_word_of_python_is_refused_by_name() -> None:
    with pytest.raises(CaptureError, match=r"'heads\.class' is named by a word"):
        capture_graph(_Wrapper("box", "class"), toys.images(2))
