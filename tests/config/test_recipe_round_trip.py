"""Every recipe that can be made survives its YAML."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mrecg
from mrecg.config.optimization import Reconstruction
from mrecg.config.recipe import Recipe
from mrecg.config.settings import (
    ActivationRanges,
    ActivationSettings,
    LayerOverride,
    Placement,
    PlanRule,
    Ranges,
    TensorSettings,
)

BITS = st.sampled_from([*range(2, 9), 16, 32])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
POSITIVE = st.floats(1e-6, 1e6)
RANGES = {
    "method": st.sampled_from(["minmax", "percentile", "magnitude", "std", "lsq", "error"]),
    "p": POSITIVE,
    "percentile": st.floats(50, 100, exclude_min=True),
    "std_multiple": POSITIVE,
}
GRID = {
    "bits": BITS,
    "symmetric": st.booleans(),
    "narrow": st.booleans(),
    "power_of_two": st.booleans(),
}
RECONSTRUCTION = st.builds(
    Reconstruction,
    steps=st.integers(0, 10**6),
    batch_size=st.integers(1, 512),
    rounding_rate=st.one_of(st.just("auto"), POSITIVE),
    activation_rate=st.one_of(st.just("auto"), POSITIVE),
    penalty=POSITIVE,
    warm_up=st.floats(0, 1, exclude_max=True),
    beta=st.tuples(POSITIVE, POSITIVE),
    keep_quantized_probability=st.floats(0, 1, exclude_min=True),
    precision=st.sampled_from(["float32", "tfloat32", "bfloat16", "fastest", "auto"]),
    cuda_graphs=st.booleans(),
    cache=st.sampled_from(["float32", "float16"]),
    exclude=st.lists(TEXT, max_size=2).map(tuple),
)
PLACEMENTS = st.builds(
    Placement,
    first_last=st.sampled_from(["qdrop", "brecq", "same"]),
    first_last_bits=BITS,
    shortcut=st.sampled_from(["quantized", "float"]),
    overrides=st.lists(
        st.builds(LayerOverride, layers=TEXT, weight_bits=st.one_of(st.none(), BITS)), max_size=2
    ).map(tuple),
)
PLANS = st.one_of(
    st.builds(PlanRule, join=st.sampled_from(["none", "capacity", "loss", "stage"])),
    st.builds(
        PlanRule,
        join=st.just("scheme"),
        scheme=st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    ),
    st.builds(
        PlanRule,
        join=st.just("explicit"),
        groups=st.lists(TEXT, min_size=1, max_size=9, unique=True).map(
            lambda names: tuple(tuple(names[at : at + 3]) for at in range(0, len(names), 3))
        ),
    ),
)
RECIPES = st.builds(
    Recipe,
    name=TEXT,
    seed=st.integers(0, 2**32 - 1),
    weight=st.builds(TensorSettings, **GRID, ranges=st.builds(Ranges, **RANGES)),
    activation=st.builds(
        ActivationSettings,
        **GRID,
        ranges=st.builds(ActivationRanges, **RANGES),
        unsigned=st.booleans(),
    ),
    placement=PLACEMENTS,
    plan=PLANS,
    reconstruct=RECONSTRUCTION,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recipe=RECIPES)
def test_a_recipe_is_what_its_yaml_says(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    again = mrecg.read_recipe(path)
    assert again == recipe
    assert again.differences(recipe) == []
    assert again.to_yaml() == recipe.to_yaml()
