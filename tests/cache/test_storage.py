"""The place of cached activations must not decide a result, and nothing may stay behind."""

import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mrecg
import toys
from mrecg.cache import storage
from mrecg.cache.storage import Storage
from mrecg.cache.stored import InMemory
from mrecg.errors import StorageError
from mrecg.optimize.progress import Progress
from mrecg.planning.estimate import Estimate
from mrecg.planning.windows import Cut
from toys import normal

CPU = torch.device("cpu")
SHAPES = [(3, 5, 4), (1, 6, 6), (7, 8), (10,)]


def values(*shape: int) -> Tensor:
    return normal(9, *shape) * 1000


@pytest.mark.parametrize("limit", [None, 0], ids=["memory", "file"])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_stored_comes_back(
    shape: tuple[int, ...],
    half: bool,
    limit: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stored, x = Storage(CPU, limit, half).allocate(9, shape), values(*shape)
    for first in (0, 4, 8):
        stored.write(first, x[first : first + 4])
    expected = x.half().float() if half else x
    assert torch.equal(stored.portion(0, 9), expected)
    chosen = torch.tensor([5, 0, 5])
    batch = stored.batch(chosen)
    assert torch.equal(batch, expected[chosen])
    batch.zero_()  # the caller's own
    assert torch.equal(stored.portion(5, 6), expected[5:6])
    if len(shape) == 3:
        assert batch.stride()[1] == 1
        cut = Cut(torch.tensor([0, 2, 1]), torch.tensor([1, 0, 2]), shape[1] - 2, shape[2] - 2)
        found = stored.batch(chosen, cut)
        assert found.stride() == torch.empty_like(found, memory_format=torch.channels_last).stride()
        for window, index, top, left in zip(found, chosen, *cut[:2], strict=True):
            wanted = expected[index, :, top : top + cut.height, left : left + cut.width]
            assert torch.equal(window, wanted)
    assert len(stored) == 9
    assert not list(tmp_path.iterdir())  # the file has no name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_chosen_images_are_read_where_they_are(shape: tuple[int, ...]) -> None:
    """As if they had been copied; what is read is the reader's own."""
    x, numbers = values(*shape), torch.tensor([1, 2, 5, 8])
    before = x.clone()
    chosen, copied = Storage(CPU).wrap(x, numbers), Storage(CPU).wrap(x[numbers])
    some = torch.tensor([3, 0])
    assert len(chosen) == 4
    pairs = [(chosen.portion(1, 3), copied.portion(1, 3)), (chosen.batch(some), copied.batch(some))]
    if len(shape) == 3:
        cut = Cut(torch.tensor([0, 2]), torch.tensor([1, 0]), shape[1] - 2, shape[2] - 2)
        pairs.append((chosen.batch(some, cut), copied.batch(some, cut)))
    for found, wanted in pairs:
        assert torch.equal(found, wanted)
        assert found.stride() == wanted.stride()
        found.zero_()
    assert torch.equal(x, before)


def test_half_precision_saturates() -> None:
    stored = Storage(CPU, half=True).allocate(1, (2,))
    stored.write(0, torch.tensor([[1e9, -1e9]]))
    assert torch.equal(stored.portion(0, 1), torch.tensor([[65504.0, -65504.0]]))


def test_the_budget_is_filled_and_given_back() -> None:
    places = Storage(CPU, limit=1000)
    first, second = places.allocate(10, (20,)), places.allocate(10, (10,))
    assert places.held == {"device": 0, "host": 800, "file": 400}
    places.release(first)
    third = places.allocate(5, (10,))
    assert places.held == {"device": 0, "host": 200, "file": 400}
    for stored in (second, third, third):
        places.release(stored)
    assert not any(places.held.values())


@pytest.mark.parametrize(
    ("free", "limit", "expected"), [(1 << 20, 0, "device"), (1500, 900, "host"), (1500, 0, "file")]
)
def test_an_accelerator_comes_first(
    free: int, limit: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    assert Storage(torch.device("cuda", 0), limit)._place(800) == expected


@pytest.mark.parametrize("numbers", [None, torch.arange(1, 600, 2)])
def test_images_are_copied_to_a_device_with_room(
    numbers: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channels last, in which convolutions are fastest; integers stay integers."""
    monkeypatch.setattr(Storage, "_place", lambda self, size: "device")
    monkeypatch.setattr(storage, "_COPIED_AT_ONCE", 10_000)
    places, x = Storage(CPU), torch.arange(600 * 3 * 2 * 2).view(600, 3, 2, 2)
    monkeypatch.setattr(places, "_device", torch.device("cpu", 0))  # another name for the same
    wrapped = places.wrap(x, numbers)
    x = x if numbers is None else x[numbers]
    batch = wrapped.batch(torch.tensor([5, 0]))
    assert torch.equal(batch, x[[5, 0]])
    assert batch.stride()[1] == 1
    assert torch.equal(wrapped.portion(0, len(x)), x)


def test_images_stay_where_they_are_if_the_device_has_less_room_than_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: InMemory, first: int, values: Tensor) -> None:
        raise MemoryError

    monkeypatch.setattr(InMemory, "write", full)
    monkeypatch.setattr(Storage, "_place", lambda self, size: "device")
    places, x = Storage(torch.device("meta")), values(4, 3, 5, 5)
    assert places.wrap(x)._rows.data_ptr() == x.data_ptr()  # type: ignore[attr-defined]
    assert places.shortages.told == ["memory ran out: cached activations are on the host"]


def test_what_a_step_reads_without_the_host(tmp_path: Path) -> None:
    """What lies where the units run, but for images by numbers, which are the host's."""
    x = values(4, 3, 5, 5)
    here, elsewhere = Storage(CPU), Storage(torch.device("cuda", 0))
    assert here.wrap(x).is_on_device
    assert here.allocate(4, (3,)).is_on_device
    assert not here.wrap(x, torch.tensor([1, 2])).is_on_device
    assert not Storage(CPU, limit=0).allocate(4, (3,)).is_on_device
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
        assert not elsewhere.wrap(x).is_on_device


def test_a_full_disk_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(StorageError, match="No space left on device; set TMPDIR"):
        Storage(CPU, 0).allocate(4, (4,))


def test_files_give_the_same_bits() -> None:
    recipe = mrecg.preset("w2a4-qdrop-mrecg", {"reconstruct.steps": 8, "reconstruct.batch_size": 8})
    model, x = toys.make("residual"), toys.images(32)
    events: list[Progress | Estimate] = []
    results = [
        mrecg.quantize(model, x, recipe=recipe, memory=memory, progress=events.append)
        for memory in (None, 20_000)
    ]
    assert torch.equal(results[0].model(x), results[1].model(x))
    estimates = [event for event in events if isinstance(event, Estimate)]
    assert estimates[0].files == 0
    assert estimates[1].files == estimates[0].values - 20_000
    half = mrecg.quantize(model, x, recipe=recipe.override({"reconstruct.cache": "float16"}))
    assert not torch.equal(half.model(x), results[0].model(x))
    assert half.record.units[0].loss == pytest.approx(results[0].record.units[0].loss, rel=0.05)


def test_a_file_that_somebody_else_cuts_is_no_endless_loop() -> None:
    stored = Storage(CPU, 0).allocate(9, (3,))
    stored.write(0, values(3))
    stored._file.truncate(20)  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="shorter than what was written"):
        stored.portion(0, 9)
