"""Memory that runs out: parts of a batch give the batch's gradients, caches go elsewhere, and each change is told once."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import mrecg
import toys
from mrecg.cache import activation_cache, storage
from mrecg.cache.storage import Storage
from mrecg.errors import StorageError
from mrecg.optimize import finite
from mrecg.optimize import step as step_module
from mrecg.optimize.adam import Adam
from mrecg.optimize.network_objective import NetworkObjective
from mrecg.optimize.progress import Progress
from mrecg.optimize.step import Step
from mrecg.shortage import Parts, Shortages, is_shortage
from quick import quick

SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
]
RECIPE = quick("w2a4-qdrop", network__steps=2, reconstruct__steps=2)


def limited(function: Callable[..., Any], most: int, size: Callable[..., int]) -> Any:
    """The function where memory is enough for so many images."""

    def call(*given: Any, **named: Any) -> Any:
        if size(*given) > most:
            raise SHORTAGES[size(*given) % len(SHORTAGES)]
        return function(*given, **named)

    return call


def of_values(units: Any, values: dict[str, Tensor], *_: Any) -> int:
    return len(next(iter(values.values())))


def run() -> tuple[mrecg.QuantizedModel, list[str]]:
    notes: list[str] = []

    def report(event: object) -> None:
        notes.extend([event.note] if isinstance(event, Progress) and event.note else [])

    images = toys.images(32)
    return mrecg.quantize(toys.make("residual"), images, recipe=RECIPE, progress=report), notes


def test_what_says_that_memory_ran_out() -> None:
    assert all(map(is_shortage, SHORTAGES))
    assert not is_shortage(RuntimeError("expected 3 channels"))


@pytest.mark.parametrize("fails", ["forward", "backward"])
def test_parts_of_a_batch_give_its_gradients(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropping and with the penalty, which counts once; the loss is overwritten by its slopes before a backward pass fails."""
    whole: list[list[Tensor]] = []
    parts: list[list[Tensor]] = []
    take = Adam.step

    def recorded(found: list[list[Tensor]]) -> Callable[..., None]:
        def call(self: Adam, *rates: float) -> None:
            learned = [one for group in self._given for one in group if one.grad is not None]
            found.append([one.grad.clone() for one in learned if one.grad is not None])
            take(self, *rates)

        return call

    recipe = quick("w2a4-qdrop", network__steps=0, reconstruct__warm_up=0.0)
    for found in (whole, parts):
        with monkeypatch.context() as patch:
            patch.setattr(Adam, "step", recorded(found))
            if found is parts and fails == "forward":
                patch.setattr(
                    step_module,
                    "run_quantized_units",
                    limited(step_module.run_quantized_units, 3, of_values),
                )
            elif found is parts:
                few = limited(Step._backward, 3, lambda _, outputs, slopes: len(outputs[0]))
                patch.setattr(Step, "_backward", few)
            run_of_groups = mrecg.quantize(toys.make("chain"), toys.images(32), recipe=recipe)
    line = "memory ran out: steps of groups take 2 images at once"
    assert run_of_groups.record.shortages[-1] == line
    assert len(whole) == len(parts) > 8
    for ours, theirs in zip(whole[0], parts[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_every_pass_goes_on_in_parts_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, before = run()
    assert (before, expected.record.shortages) == ([], ())
    for module, most in ((activation_cache, 7), (step_module, 3)):
        few = limited(module.run_quantized_units, most, of_values)
        monkeypatch.setattr(module, "run_quantized_units", few)
    objective = limited(NetworkObjective.__call__, 4, lambda _, images, bindings: len(images))
    monkeypatch.setattr(NetworkObjective, "__call__", objective)
    forward = limited(
        NetworkObjective._run_float, 5, lambda _, given: len(next(iter(given.values())))
    )
    monkeypatch.setattr(NetworkObjective, "_run_float", forward)
    found, notes = run()
    assert len(set(notes)) == len(notes)
    assert found.record.shortages == tuple(notes)
    last = {note.partition(" take ")[0]: note.rpartition(" take ")[2] for note in notes}
    assert {name.removeprefix("memory ran out: "): sizes for name, sizes in last.items()} == {
        "passes through units": "7 images at once",
        "steps of groups": "2 images at once",
        "steps of the network": "4 images at once",
        "passes through the network": "4 images at once",
    }
    for ours, theirs in zip(expected.record.units, found.record.units, strict=True):
        assert theirs.nearest_loss == pytest.approx(ours.nearest_loss, rel=0.2)


def test_a_cache_goes_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere:
        def __init__(self, *_: object) -> None:
            raise MemoryError

    told: list[str] = []
    monkeypatch.setattr(storage, "InMemory", Nowhere)
    places = Storage(torch.device("cpu"), shortages=Shortages(told.append))
    monkeypatch.setattr(places, "_place", lambda size: "device")
    x = toys.normal(4, 2, 3, 3)
    for _ in range(2):
        stored = places.allocate(4, (2, 3, 3))
        stored.write(0, x)
        assert torch.equal(stored.portion(0, 4), x)
    assert told == [
        "memory ran out: cached activations are on the host",
        "memory ran out: cached activations are in files",
    ]
    assert (places.held["device"], places.held["host"], places.held["file"]) == (0, 0, 2 * 288)


def test_too_little_memory_for_one_image_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite, "compute_precision", limited(print, 0, lambda *_: 1))
    with pytest.raises(StorageError, match=r"^Memory is not enough, however small the parts"):
        run()


def test_other_errors_are_not_tried_again() -> None:
    tries: list[int] = []

    def work(size: int) -> None:
        tries.append(size)
        raise RuntimeError("expected 3 channels")

    with pytest.raises(RuntimeError, match="channels"):
        Parts(Shortages(), "passes").run(4, work)
    assert tries == [4]
