"""Texts that once ended in a traceback: each is the right value, or refused in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import configuration_files
import mrecg
from command_line import MODEL, Finished
from mrecg.cli.recipe_choice import read_overrides
from mrecg.config.texts import bytes_of
from mrecg.errors import MrecgError, RecipeError, RunError, StorageError, did_you_mean, quoted
from mrecg.paper.mqbench import read_experiment
from mrecg.records.record import Record
from reported import record

GRIDS = "weight: {bits: 4}\nactivation: {bits: 4}\n"
NINES = "9" * 5000


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed=!!int x", "'seed' cannot be read: 'x' cannot be read as int"),
        ('seed=!!int ""', "'' cannot be read as int"),
        ("seed=!!timestamp x", "the tag 'tag:yaml.org,2002:timestamp' is not accepted"),
        ("name=!!binary x", "the tag 'tag:yaml.org,2002:binary' is not accepted"),
        ("name=!mine x", "the tag '!mine' is not accepted"),
        ("name=" + "[" * 3000, "it is more than 30 levels deep"),
        ("name=" + "[" * 20 + "]" * 20, r"expected a string \(got \[\[\[\[\.\.\.\]\]\]\]\)"),
        (f"seed={NINES}", r"'9+\.\.\.9+' cannot be read as int"),
        (f"name={NINES}x", "'name': expected at most 255 characters"),
        ("reconstruct.beta=[1e300,1e-300]", "'reconstruct.beta.0': expected at most 1000000"),
        ("reconstruct.beta=[20,1e-300]", "'reconstruct.beta.1': expected at least 1e-06"),
        (f"reconstruct.steps={10**30}", "'reconstruct.steps': expected at most 100000000"),
        ("network.temperature=1e-300", "'network.temperature': expected at least 1e-06"),
        ("name={a: 1, a: 2}", "the key 'a' is there twice"),
        ("name=*a", r"the alias '\*a' is not accepted"),
        ('name="\\uD800"', "expected a string that UTF-8 can hold"),
        ("name=\x07", "special characters are not allowed"),
        ("a" * 3000 + "=1", r"has no key 'a+\.\.\.a+'; known: name, seed"),
        ("x" * 3000, r"The setting 'x+\.\.\.x+' has no value"),
    ],
)
def test_settings_on_the_command_line(
    setting: str, message: str, mrecg_command: Callable[..., Finished]
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        mrecg.preset("w4a4-brecq", read_overrides([setting]))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    done = mrecg_command("recipe", "w4a4-brecq", "--set", setting)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("name", ["2023-99-99", "2023-11-02", "2023-11-02 10:00:00"])
def test_a_date_is_a_text(name: str, tmp_path: Path) -> None:
    recipe = mrecg.preset("w4a4-brecq", read_overrides([f"name={name}"]))
    assert recipe.name == name
    (tmp_path / "r.yaml").write_text(f"name: {name}\n{GRIDS}")
    assert mrecg.read_recipe(tmp_path / "r.yaml").name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"name: !!timestamp x\n{GRIDS}", "the tag .*timestamp' is not accepted, in line 1"),
        (f"name: a\nname: b\n{GRIDS}", "the key 'name' is there twice, in line 2"),
        (f"name: a\n{GRIDS}weight: {{bits: 2}}\n", "the key 'weight' is there twice, in line 4"),
        (f"name: a\nseed: {NINES}\n{GRIDS}", r"cannot be read as int, in line 2"),
        ("[" * 5000, "levels deep"),
        ("? {a: 1}\n: 2\n", "unhashable"),
    ],
)
def test_recipe_files(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        mrecg.read_recipe(tmp_path / "r.yaml")
    assert "\n" not in str(caught.value)


def test_names_and_sizes() -> None:
    with pytest.raises(RecipeError, match=r"no preset 'w9+\.\.\.9+a4-brecq'"):
        mrecg.preset(f"w{NINES}a4-brecq")
    with pytest.raises(RecipeError, match=r"did you mean|expected 2 to 8 bits"):
        mrecg.preset("w99a4-brecq")
    for text in (f"{NINES}T", "1e5", "-3", f"1.{NINES}K"):
        with pytest.raises(StorageError, match="cannot be read, expected a size"):
            bytes_of(text)
    assert bytes_of("1.5 KiB") == 1536


def test_memory_and_names_on_the_command_line(mrecg_command: Callable[..., Finished]) -> None:
    for arguments in (
        ("quantize", *MODEL, "--output", "run", "--memory", f"{NINES}T"),
        ("recipe", f"w{NINES}a4-brecq"),
        ("recipe", "w4a4-brecq", "--bits", f"w{NINES}a4"),
    ):
        done = mrecg_command(*arguments)
        assert done.returncode == 1
        assert done.stderr.count("error: ") == 1
        assert len(done.stderr) < 2500


MQBENCH: list[tuple[tuple[str, ...], Any, str]] = [
    (("quantize", "reconstruction", "exclude_node"), [1], r"expected names, got \[1\]"),
    (("quantize", "reconstruction", "exclude_node"), 3, "expected names, got 3"),
    (("quantize", "reconstruction", "max_count"), 10**30, "expected at most 100000000"),
    (("model", "type"), ["resnet18"], r"there is no \['resnet18'\] here"),
    (("model", "kwargs", "num_classes"), 10**12, "expected at most 1000000"),
    (("data", "num_workers"), -1, "expected at least 0"),
    (("data", "input_size"), 10**9, "expected at most 10000"),
    *(
        (("model", "kwargs", "width_mult"), value, "expected a number above 0 and up to 10")
        for value in (None, float("inf"), float("nan"), -1, "wide", True)
    ),
]


@pytest.mark.parametrize(("place", "value", "message"), MQBENCH)
def test_mqbench_files(place: tuple[str, ...], value: object, message: str, tmp_path: Path) -> None:
    settings = configuration_files.settings("mobilenet_v2")
    section = settings
    for name in place[:-1]:
        section = section.setdefault(name, {})
    section[place[-1]] = value
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(RecipeError, match=message):
        read_experiment(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("accuracy", "message"),
    [
        ({"quantized": {"count": 4, "correct1": 3, "correct5": 4}}, "that of one network"),
        ({"float": {"count": 4, "correct1": 3, "correct5": 4}}, "that of one network"),
        (
            {key: {"count": 0, "correct1": 0, "correct5": 0} for key in ("float", "quantized")},
            "not a count of images",
        ),
        (
            {key: {"count": 4, "correct1": 5, "correct5": 4} for key in ("float", "quantized")},
            "not a count of images",
        ),
    ],
)
def test_accuracies_of_a_record(accuracy: dict[str, Any], message: str) -> None:
    text = record().model_dump_json()
    values = Record.model_validate_json(text).model_dump(mode="json") | {"accuracy": accuracy}
    with pytest.raises(RunError, match=f"is no record: .*{message}"):
        Record.parse(json.dumps(values).encode(), "record.json")


def test_quotes_are_short() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 10**6, 10**6000, deep, list(range(10**6)), {"a": "x" * 10**6}, object()):
        assert len(quoted(value)) < 400
    assert quoted("abc") == "'abc'"
    assert len(did_you_mean("x" * 10**6, ["abc"])) < 100
    assert issubclass(RecipeError, MrecgError)
