"""Results: one sorted file, recipes and environments once, and no result lost between processes."""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from benchmarks.store import RESULTS, Store, content_hash

KEY = ("network", "seed", "without")


def result(seed: int, bits: int = 4, without: str | None = None) -> dict[str, object]:
    recipe = {"weight": {"bits": bits}, "name": f"w{bits}"}
    cell = {"network": "n", "seed": seed, "without": without}
    return {**cell, "top1": 90.25, "recipe": recipe, "environment": {"torch": "2"}}


def hashes(folder: Path, name: str) -> list[str]:
    return [json.loads(line)["hash"] for line in (folder / name).read_text().splitlines()]


def test_results_come_back_whole_and_sorted(tmp_path: Path) -> None:
    store = Store("one", KEY, tmp_path / "new")
    assert store.read() == []
    assert {"network": "n", "seed": 1} not in store
    added = [result(10), result(9, without="x"), result(9, bits=2), result(9, without="a")]
    for one in added:
        store.add(one)
    found = store.read()
    assert found == [added[2], added[3], added[1], added[0]]
    assert {"network": "n", "seed": 9, "without": None} in store
    assert {"network": "n", "seed": 10, "without": "x"} not in store
    lines = store.path.read_text().splitlines()
    assert len(lines) == 4
    assert "bits" not in store.path.read_text()
    assert len(hashes(store.folder, "recipes.jsonl")) == 2
    assert len(hashes(store.folder, "environments.jsonl")) == 1


def test_a_result_of_the_same_key_is_replaced_and_its_recipe_dropped(tmp_path: Path) -> None:
    store, other = Store("one", KEY, tmp_path), Store("other", KEY, tmp_path)
    store.add(result(1, bits=2))
    other.add(result(1, bits=3))
    store.add(result(1, bits=8) | {"top1": 95.0})
    assert [one["top1"] for one in store.read()] == [95.0]
    assert other.read() == [result(1, bits=3)]
    kept = {json.dumps(one["recipe"]) for one in (*store.read(), *other.read())}
    assert len(hashes(tmp_path, "recipes.jsonl")) == len(kept) == 2


def _add(folder: Path, seeds: list[int]) -> None:
    store = Store("shared", KEY, folder)
    for seed in seeds:
        store.add(result(seed, bits=seed))


def test_processes_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    shares = [list(range(first, 40, 4)) for first in range(4)]
    with ProcessPoolExecutor(4, get_context("spawn")) as pool:
        list(pool.map(_add, [tmp_path] * 4, shares))
    found = Store("shared", KEY, tmp_path).read()
    assert found == [result(seed, bits=seed) for seed in range(40)]


@pytest.mark.parametrize("field", ["recipe", "environment"])
def test_stored_values_have_the_hash_of_their_content(field: str) -> None:
    """Of the results in this repository; a value that no result names is not kept."""
    names = set()
    for line in (RESULTS / f"{field}s.jsonl").read_text().splitlines():
        entry = json.loads(line)
        assert entry["hash"] == content_hash(entry[field])
        names.add(entry["hash"])
    named = set()
    for path in RESULTS.glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        named |= {row[field] for row in rows if isinstance(row.get(field), str)}
    assert named == names
