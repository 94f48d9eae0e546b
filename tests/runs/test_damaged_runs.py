"""Files that changed by accident: a run loads with equal outputs or is refused in a sentence, never anything else."""

import contextlib
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import mrecg
import run_folders
import toys
from mrecg.errors import RunError
from mrecg.records.record import Record
from mrecg.report.page import run_chapter
from mrecg.report.reported_run import ReportedRun
from run_folders import FILES, OTHERS, change_record, seal

IMAGES = toys.images(4)


def flip(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def truncate(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def insert(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content) + 1)
    return content[:place] + chance.randbytes(chance.randint(1, 64)) + content[place:]


def overwrite(content: bytes, chance: random.Random) -> bytes:
    place, length = chance.randrange(len(content)), chance.randint(1, 64)
    return content[:place] + chance.randbytes(length) + content[place + length :]


MUTATIONS = (flip, truncate, insert, overwrite)
STRANGE: list[Any] = [None, True, -1, 0, 10**30, 1.5, float("inf"), "", "x" * 300, [], {}, [[]]]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value with the key or index of every member."""
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for key, member in list(members):
        yield value, key
        if isinstance(member, dict | list):
            yield from places(member)


def change_structure(text: bytes, chance: random.Random) -> str:
    """Replace, remove, exchange or repeat a member."""
    value = json.loads(text)
    holder, key = chance.choice(list(places(value)))
    other_holder, other = chance.choice(list(places(value)))
    kind = chance.randrange(4)
    if kind == 0:
        holder[key] = chance.choice(STRANGE)
    elif kind == 1:
        del holder[key]
    elif kind == 2:
        holder[key] = json.loads(json.dumps(other_holder[other]))
    elif isinstance(holder, list):
        holder.insert(key, holder[key])
    else:
        holder[f"{key}x"] = holder[key]
    return json.dumps(value)


def outputs(run: Path) -> torch.Tensor | str:
    """The logits of a run, or why it is refused."""
    try:
        loaded = mrecg.load(run)
    except RunError as error:
        return str(error)
    result: torch.Tensor = loaded.model(IMAGES)
    return result


def is_equal_or_refused(found: torch.Tensor | str) -> bool:
    if isinstance(found, str):
        return "\n" not in found and found.endswith(".")
    return torch.equal(found, run_folders.quantized().model(IMAGES))


def check_accidents(run: Path, name: str, seeds: range) -> int:
    """Damage a file once for every seed; return how often the run still loads."""
    whole = (run / name).read_bytes()
    loaded = 0
    for seed in seeds:
        chance = random.Random(seed)
        (run / name).write_bytes(chance.choice(MUTATIONS)(whole, chance))
        found = outputs(run)
        loaded += not isinstance(found, str)
        assert is_equal_or_refused(found), (name, seed, found)
    return loaded


def check_structures(run: Path, name: str, seeds: range) -> int:
    """Change the structure of a JSON file and recompute every hash; return how often the run still loads."""
    whole, record = (run / name).read_bytes(), (run / "record.json").read_bytes()
    loaded = 0
    for seed in seeds:
        (run / "record.json").write_bytes(record)
        (run / name).write_text(change_structure(whole, random.Random(seed)), "utf-8")
        if name == "graph.json":
            seal(run)
        with contextlib.suppress(RunError):
            mrecg.load(run)
            loaded += 1
    return loaded


@pytest.mark.parametrize("name", FILES)
def test_accidents(name: str, run: Path) -> None:
    assert check_accidents(run, name, range(40)) <= 4


@pytest.mark.parametrize("name", OTHERS)
def test_a_single_bit_anywhere(name: str, run: Path) -> None:
    whole = (run / name).read_bytes()
    for place in range(0, len(whole), len(whole) // 50):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        (run / name).write_bytes(changed)
        with pytest.raises(RunError, match=rf"{name} is not what record\.json says was written"):
            mrecg.load(run)


@pytest.mark.parametrize("name", ["graph.json", "record.json"])
def test_structures(name: str, run: Path) -> None:
    check_structures(run, name, range(15))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_many_accidents(name: str, run: Path) -> None:
    check_accidents(run, name, range(1000, 1500))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["graph.json", "record.json"])
def test_many_structures(name: str, run: Path) -> None:
    check_structures(run, name, range(1000, 1500))


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["quantizers"][0].update(low=1),
        lambda record: record["quantizers"].pop(),
        lambda record: record.update(input_shape=[2, 9, 9]),
        lambda record: record.update(preprocessing={"crop": 3}),
        lambda record: record.update(images=17),
    ],
)
def test_records_that_were_edited(change: Any, run: Path) -> None:
    text = (run / "record.json").read_text("utf-8")
    record = json.loads(text)
    change(record)
    (run / "record.json").write_text(json.dumps(record), "utf-8")
    with pytest.raises(RunError, match="was changed after the run was written"):
        mrecg.load(run)
    (run / "record.json").write_text(json.dumps(json.loads(text)), "utf-8")  # only laid out anew
    assert mrecg.load(run).record == run_folders.quantized().record


def test_the_record_decides_no_output(run: Path) -> None:
    change_record(run, lambda record: record["quantizers"][0].update(low=1, high=2))
    found = outputs(run)
    assert not isinstance(found, str)
    assert is_equal_or_refused(found)


@pytest.mark.parametrize("name", FILES)
def test_missing_files(name: str, run: Path) -> None:
    (run / name).unlink()
    with pytest.raises(RunError, match=f"holds no run: {name} is missing"):
        mrecg.load(run)


def test_the_page_is_not_part_of_what_is_checked(run: Path) -> None:
    """It is made from recipe and record, and may be made anew."""
    assert (run / "report.html").read_text("utf-8").startswith("<!doctype html>")
    (run / "report.html").write_text("something else", "utf-8")
    assert mrecg.load(run).record == run_folders.quantized().record
    (run / "report.html").unlink()
    assert mrecg.load(run).record == run_folders.quantized().record


def forget_later_fields(record: dict[str, Any]) -> None:
    """Take from a record what earlier versions did not write."""
    del record["size"], record["command"]
    for group in record["groups"]:
        del group["curve"]
    for quantizer in record["quantizers"]:
        del quantizer["values"]


def test_runs_of_earlier_versions_load_and_are_saved_again(run: Path, tmp_path: Path) -> None:
    path = run / "record.json"
    record = json.loads(path.read_text("utf-8"))
    forget_later_fields(record)
    del record["files"]["record.json"]
    said = Record.model_validate_json(json.dumps(record)).to_given_json()
    assert '"size"' not in said
    record["files"]["record.json"] = hashlib.sha256(said.encode()).hexdigest()
    path.write_text(json.dumps(record), "utf-8")
    loaded = mrecg.load(run)
    assert is_equal_or_refused(loaded.model(IMAGES))
    assert loaded.record.size is None
    assert "not recorded" in loaded.report().html
    again = mrecg.load(loaded.save(tmp_path / "again"))
    assert again.record == loaded.record


def test_pages_of_edited_records_are_made_or_refused(run: Path) -> None:
    """Whatever a record holds that can be read, a page shows it, or a sentence says what is wrong."""
    whole = run_folders.quantized().record.to_json().encode()
    recipe = run_folders.quantized().recipe
    made = 0
    for seed in range(60):
        changed = change_structure(whole, random.Random(seed))
        with contextlib.suppress(RunError):
            record = Record.parse(changed.encode(), run / "record.json")
            made += bool(run_chapter(ReportedRun("edited", record, recipe)).sections)
    assert made > 5
