"""Recipes: presets, overrides, YAML, and a sentence for every mistake."""

import ast
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

import mrecg
from mrecg.config.presets import METHODS, preset_names
from mrecg.config.recipe import read_recipe
from mrecg.config.yaml_files import REASONS, flat
from mrecg.errors import RecipeError, RunError


@pytest.mark.parametrize("name", preset_names())
def test_presets_resolve_and_survive_yaml(name: str, tmp_path: Path) -> None:
    recipe = mrecg.preset(name)
    assert recipe.name == name
    assert (f"w{recipe.weight.bits}a{recipe.activation.bits}") == name.split("-")[0]
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert read_recipe(path) == recipe


def test_methods_differ_in_what_defines_them() -> None:
    recipes = {method: mrecg.preset(f"w2a4-{method}") for method in METHODS}
    assert recipes["rtn"].reconstruct.steps == 0
    assert recipes["adaround"].plan.granularity == "layer"
    assert recipes["brecq"].reconstruct.keep_quantized_probability == 1
    assert recipes["qdrop"].reconstruct.keep_quantized_probability == 0.5
    assert mrecg.preset("w2a4-qdrop-mrecg").plan.join != "none"


def test_overrides_reach_their_setting() -> None:
    recipe = mrecg.preset("w2a4-qdrop", {"reconstruct.steps": 7, "seed": 3, "weight.ranges.p": 2})
    assert (recipe.reconstruct.steps, recipe.seed, recipe.weight.ranges.p) == (7, 3, 2.0)


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        mrecg.preset("w2a4-qdrop").seed = 2


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("w2a4-qdorp", {}, "did you mean 'w2a4-qdrop'"),
        ("w9a4-brecq", {}, "expected 2 to 8 bits, 16, or 32 for float, got 9"),
        ("w2a1-brecq", {}, "'activation.bits'.*got 1"),
        ("w2a4-brecq", {"reconstruct.step": 1}, "did you mean 'reconstruct.steps'"),
        ("w2a4-brecq", {"seeds": 1}, "did you mean 'seed'"),
        ("w2a4-brecq", {"steps": 1}, "did you mean 'reconstruct.steps'"),
        ("W2A4-BRECQQ", {}, "did you mean 'w2a4-brecq'"),
        ("w2a4-brecq", {"reconstruct.rounding_rate": float("nan")}, "rounding_rate"),
        ("w2a4-brecq", {"reconstruct.penalty": float("inf")}, "penalty"),
        ("w2a4-brecq", {"reconstruct.beta": [20, 0]}, "beta"),
        ("w2a4-brecq", {"seed.x": 1}, "no key 'seed.x'"),
        ("w2a4-brecq", {"reconstruct.steps": -1}, "'reconstruct.steps'.*got -1"),
        (
            "w2a4-brecq",
            {"reconstruct.steps": "many"},
            "'reconstruct.steps': expected a whole number or 'auto' .got 'many'",
        ),
        ("w2a4-brecq", {"plan.count": "many"}, "'plan.count': expected a whole number"),
        ("w2a4-brecq", {"reconstruct.early_stop": 3}, "expected true or false"),
        ("w2a4-brecq", {"reconstruct.exclude": "fc"}, "'reconstruct.exclude': expected a list"),
        ("w2a4-brecq", {"reconstruct.beta": [1, 2, 3]}, "expected at most 2 items"),
        ("w2a4-brecq", {"plan.join": "everything"}, "'plan.join'"),
        ("w2a4-brecq", {"placement.overrides": [{"layer": "x"}]}, "overrides"),
    ],
)
def test_mistakes_are_explained(name: str, overrides: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        mrecg.preset(name, overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a list", "holds list, expected a mapping"),
        ("name: [unclosed", "cannot be read"),
        ("name: x\nweight: {bits: 4}\nactivation: {bits: 4}\nsteps: 3", "no key 'steps'"),
        (
            "name: x\nweight: {bits: 4}\nactivation: {bits: 4}\nweight-bits: 3",
            "no key 'weight-bits'",
        ),
        ("!!python/object/apply:os.system ['true']", "cannot be read"),
    ],
)
def test_bad_recipe_files_are_explained(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        read_recipe(path)


def test_missing_recipe_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        read_recipe(tmp_path / "nothing.yaml")


@pytest.mark.parametrize("value", [{"steps": 3}, 3])
def test_a_section_is_not_replaced_as_a_whole(value: object) -> None:
    """Its other settings would go back to their defaults: QDrop would silently become BRECQ."""
    with pytest.raises(RecipeError, match=r"'reconstruct' is a section .* reconstruct\.steps"):
        mrecg.preset("w2a4-qdrop", {"reconstruct": value})


def test_a_key_that_is_like_no_other() -> None:
    """The sections, or what its own section holds, and not every key there is."""
    for key, known in [
        ("zzz", "known: name, seed, weight, activation, placement, plan, reconstruct"),
        ("plan.zzzzzzzzzzzzzz", r"known: plan\.granularity, plan\.cut, plan\.join,"),
    ]:
        with pytest.raises(RecipeError, match=f"no key '{key}'; {known}"):
            mrecg.preset("w4a4-brecq", {key: 1})


BAD_VALUES: list[tuple[str, dict[str, object], str]] = [
    ("value_error", {"weight.bits": 9}, "'weight.bits': expected 2 to 8 bits"),
    ("int_type", {"seed": None}, "'seed': expected a whole number"),
    ("int_parsing", {"seed": "x"}, "'seed': expected a whole number"),
    ("int_from_float", {"seed": 1.5}, "'seed': expected a whole number"),
    ("int_parsing_size", {"seed": "9" * 5000}, "'seed': expected a whole number"),
    ("float_type", {"reconstruct.penalty": []}, "'reconstruct.penalty': expected a number"),
    ("float_parsing", {"reconstruct.penalty": "x"}, "'reconstruct.penalty': expected a number"),
    ("finite_number", {"reconstruct.penalty": float("nan")}, "expected a finite number"),
    ("greater_than", {"weight.ranges.p": 0}, "'weight.ranges.p': expected more than 0"),
    ("greater_than_equal", {"reconstruct.steps": -1}, "expected at least 0"),
    ("less_than", {"reconstruct.warm_up": 1}, "'reconstruct.warm_up': expected less than 1"),
    ("less_than_equal", {"plan.loss_steps": 2}, "'plan.loss_steps': expected at most 1"),
    ("bool_type", {"weight.narrow": None}, "'weight.narrow': expected true or false"),
    ("bool_parsing", {"weight.narrow": "x"}, "'weight.narrow': expected true or false"),
    ("string_type", {"name": 3}, "'name': expected a string"),
    ("literal_error", {"plan.granularity": "x"}, "expected 'layer' or 'block' .got 'x'"),
    ("tuple_type", {"plan.scheme": 3}, "'plan.scheme': expected a list"),
    ("too_long", {"reconstruct.beta": [1, 2, 3]}, "'reconstruct.beta': expected at most 2 items"),
    ("missing", {"reconstruct.beta": [1]}, r"'reconstruct.beta.1': it is missing"),
    ("model_type", {"placement.overrides": [3]}, "'placement.overrides.0': expected a mapping"),
    ("extra_forbidden", {"placement.overrides": [{"x": 1}]}, "overrides"),
]


@pytest.mark.parametrize(("kind", "overrides", "message"), BAD_VALUES)
def test_every_kind_of_bad_value_has_words(
    kind: str, overrides: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        mrecg.preset("w2a4-brecq", overrides)
    assert isinstance(caught.value.__cause__, ValidationError)
    kinds = [problem["type"] for problem in caught.value.__cause__.errors()]
    assert kind in kinds
    assert set(kinds) <= REASONS.keys()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "it is no JSON: EOF"),
        ("3", "expected a mapping"),
        ('{"rule": 1, "groups": 3, "neighbours": 3}', "expected a"),
        ('{"x": 3}', "missing|no such key"),
    ],
)
def test_a_file_that_does_not_fit_is_explained(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=rf"is no plan: .*({reason})"):
        mrecg.Plan.read(path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("reconstruct.rounding_rate", "fast", "expected a number or 'auto'"),
        ("reconstruct.rounding_rate", 0, "expected more than 0 or 'auto'"),
        ("plan.count", -1, "expected at least 0 or 'auto' or 'all'"),
        ("plan.count", 1.5, "expected a whole number or 'auto' or 'all'"),
    ],
)
def test_every_type_that_a_value_may_have_is_named(key: str, value: object, words: str) -> None:
    with pytest.raises(RecipeError, match=f"'{key}': {words} .got {value!r}"):
        mrecg.preset("w2a4-brecq", {key: value})


def test_settings_that_messages_name_exist() -> None:
    """An advice that names a setting is followed."""
    keys = set(dict(flat(mrecg.preset("w4a4-brecq").model_dump())))
    known = keys | {key.rpartition(".")[0] for key in keys}
    named = re.compile(r"\b(?:weight|activation|placement|plan|reconstruct|network)\.[a-z_.]*[a-z]")
    found: dict[str, str] = {}
    for path in Path(mrecg.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise):
                texts = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
                text = " ".join(one for one in texts if isinstance(one, str))
                found |= dict.fromkeys(named.findall(text), path.name)
    assert "placement.overrides" in found
    assert not {name: file for name, file in found.items() if name not in known}
