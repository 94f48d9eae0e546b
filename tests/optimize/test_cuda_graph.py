"""CUDA graphs without a GPU: a tape repeats operators on the same memory and with the same numbers, as a graph does."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mrecg
import toys
from mrecg import distributed
from mrecg.optimize import group
from mrecg.optimize.cuda_graph import Recorder, ReplayedStep
from mrecg.planning import windows
from mrecg.quantizers.grid import Scaling, UniformGrid
from mrecg.quantizers.kernels import compilation
from mrecg.quantizers.weight import WeightQuantizer
from mrecg.shortage import Shortages


class Tape(TorchDispatchMode):
    """A recorder that keeps every operator with its arguments and its results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, list[Tensor]]] = []
        self.replays = 0

    def run(self, function: Callable[[], None]) -> None:
        function()

    def record(self, function: Callable[[], None]) -> None:
        with self:
            function()

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        if self.replays == 1:
            return  # unlike a graph, it has done at once what it recorded
        for operator, arguments, options, results in self.calls:
            made = _tensors(operator(*arguments, **options))
            for kept, new in zip(results, made, strict=True):
                if kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)

    def __torch_dispatch__(
        self, operator: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        assert operator is not torch.ops.aten._local_scalar_dense.default, "the host waits"
        result = operator(*arguments, **(options or {}))
        self.calls.append((operator, arguments, options or {}, _tensors(result)))
        return result


class Rerun:
    """A recorder that remembers the function alone, which may then see what changed."""

    def run(self, function: Callable[[], None]) -> None:
        function()

    def record(self, function: Callable[[], None]) -> None:
        self.replay = function

    def replay(self) -> None:
        raise AssertionError("nothing was recorded")


def _tensors(results: Any) -> list[Tensor]:
    several = isinstance(results, tuple | list)
    return [one for one in (results if several else [results]) if isinstance(one, Tensor)]


def learned_with(
    recorder: Callable[[], Recorder] | None,
    preset: str,
    network: str,
    monkeypatch: pytest.MonkeyPatch,
    windows_of: int | str = 4,
    memory: int | None = None,
) -> mrecg.QuantizedModel:
    made = []

    def new(settings: object, device: torch.device) -> Recorder | None:
        if recorder is None:
            return None
        made.append(recorder())
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr(compilation, "fits", lambda tensor: False)  # a graph knows torch's operators
        patch.setattr(group, "_recorder", new)
        patch.setattr(windows, "LARGEST_WHOLE", 0)
        settings = {"steps": 20, "batch_size": 8, "window": windows_of}
        settings = {f"reconstruct.{name}": value for name, value in settings.items()}
        recipe = mrecg.preset(preset, settings)
        quantized = mrecg.quantize(
            toys.make(network), toys.images(32), recipe=recipe, memory=memory
        )
    assert made or recorder is None
    assert all(one.replays > 1 for one in made if isinstance(one, Tape))
    return quantized


@pytest.mark.parametrize("network", ["residual", "dense", "vit"])
@pytest.mark.parametrize(
    ("preset", "windows_of"), [("w2a2-brecq", 4), ("w3a4-qdrop-mrecg", 4), ("w3a4-qdrop", "none")]
)
def test_a_recorded_step_misses_nothing_that_changes(
    preset: str, windows_of: int | str, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches, windows, masks, rates and penalty; a number that was recorded as it was would stay as it was.

    Without windows a step reads the batch by itself, with them it is read before.
    """
    found = [learned_with(kind, preset, network, monkeypatch, windows_of) for kind in (Tape, Rerun)]
    states = [one.model.state_dict() for one in found]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert found[0].record.units == found[1].record.units


def test_a_recorded_step_is_given_what_is_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        learned_with(kind, "w3a4-qdrop", "residual", monkeypatch, "none", memory)
        for kind, memory in ((Tape, 1), (Rerun, None))
    ]
    assert found[0].record.units == found[1].record.units


def test_a_replayed_step_is_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the digits of its numbers: the rates are tensors of 32 bits."""
    replayed, direct = (
        [group.first_loss for group in record.groups] + [unit.loss for unit in record.units]
        for record in (
            learned_with(kind, "w4a4-qdrop", "residual", monkeypatch).record
            for kind in (Tape, None)
        )
    )
    assert replayed == pytest.approx(direct, rel=0.02)


def test_the_tape_would_notice() -> None:
    """A number that the host computes is recorded as it is."""
    tape, place, factors = Tape(), torch.ones(()), iter((2.0, 3.0, 5.0))
    place_factor = torch.ones(())

    def double() -> None:
        place.mul_(next(factors)).add_(place_factor)

    tape.record(double)
    for _ in range(3):
        tape.replay()
        place_factor.add_(1)
    assert float(place) == ((1 * 2 + 1) * 2 + 2) * 2 + 3
    with pytest.raises(AssertionError, match="waits"):
        tape.record(lambda: print(float(place)))


class Refuses(Rerun):
    """A recorder whose graph cannot hold what the step does, as where an operator waits for the device."""

    def record(self, function: Callable[[], None]) -> None:
        function()
        raise RuntimeError("operation not permitted when stream is capturing")


def test_steps_that_no_graph_holds_are_taken_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    recorders: list[weakref.ref[Refuses]] = []
    monkeypatch.setattr(Shortages, "tell", lambda self, line: told.append(line))
    give_up = ReplayedStep._give_up

    def watched(self: ReplayedStep, reason: str) -> None:
        assert isinstance(self._recorder, Refuses)
        recorders.append(weakref.ref(self._recorder))
        give_up(self, reason)

    monkeypatch.setattr(ReplayedStep, "_give_up", watched)
    found = learned_with(Refuses, "w3a4-qdrop-mrecg", "residual", monkeypatch)
    assert sum(u.loss for u in found.record.units) < sum(u.nearest_loss for u in found.record.units)
    assert told
    assert not any(recorder() for recorder in recorders)  # nor what its graph held
    for line in told:
        assert line == (
            "steps run one by one, because a CUDA graph cannot hold them: "
            "operation not permitted when stream is capturing"
        )


def test_only_a_cuda_device_records(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(group, "CudaGraph", lambda device: made.append(device) or Rerun())
    for cuda_graphs in (False, True):
        settings = mrecg.preset("w4a4-brecq", {"reconstruct.cuda_graphs": cuda_graphs}).reconstruct
        assert group._recorder(settings, torch.device("cpu")) is None
        assert (group._recorder(settings, torch.device("cuda", 0)) is not None) == cuda_graphs
    assert made == [torch.device("cuda", 0)]
    monkeypatch.setattr(distributed, "count", lambda: 2)
    assert group._recorder(settings, torch.device("cuda", 0)) is None


def test_autograd_takes_nothing_from_one_step_into_the_next() -> None:
    """A node that receives a gradient belongs to the stream of its first step, which a recorded one must not touch."""
    scaling = Scaling(torch.full((4, 1, 1, 1), 0.3), torch.zeros(4, 1, 1, 1))
    quantizer = WeightQuantizer(UniformGrid(-2, 1, False), scaling)
    rounding = quantizer.learn_rounding(torch.randn(4, 3, 3, 3), scaling)
    for step in range(3):
        node = torch.autograd.graph.get_gradient_edge(rounding.alpha).node
        assert not node.metadata
        node.metadata["step"] = step
        del node
        torch.autograd.backward(rounding.soft_weight().sum(), inputs=[rounding.alpha])
