"""The authors' configuration files: every key is mapped or listed with a reason, nothing in them is executed."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from configuration_files import QCONFIG, SCHEMES, changed, leaves, read, settings, without
from mrecg.config.presets import preset
from mrecg.config.recipe import read_recipe
from mrecg.errors import RecipeError
from mrecg.paper.mqbench import is_mqbench
from mrecg.paper.mqbench.keys import KEYS
from mrecg.paper.networks import NETWORKS, build
from mrecg.preparation.prepared_graph import prepare_graph

UNITS = {"mobilenet_v2": 18, "resnet18": 10, "resnet50": 18, "regnetx_600m": 18}


@pytest.mark.parametrize("prob", [0.5, 1.0])
@pytest.mark.parametrize("model", SCHEMES)
def test_the_eight_files_resolve(model: str, prob: float, tmp_path: Path) -> None:
    content = settings(model, prob)
    found = read(tmp_path, content)
    noted = [note.key for note in (*found.mapped, *found.ignored)]
    assert sorted(noted) == sorted(leaves(content))  # each key once
    assert all(note.remark for note in (*found.mapped, *found.ignored))
    recipe = found.recipe
    assert (recipe.weight.bits, recipe.activation.bits) == (2, 4)
    assert recipe.reconstruct.keep_quantized_probability == prob
    assert recipe.reconstruct.steps == 20000
    assert recipe.reconstruct.activation_rate == 4e-5
    assert recipe.reconstruct.activation_rate_unit == "absolute"
    assert recipe.activation.ranges.running_mean == 0.9
    assert recipe.reconstruct.penalty == (0.1 if model == "mobilenet_v2" else 0.01)
    assert recipe.reconstruct.batch_size == (128 if model == "resnet50" else 256)
    assert recipe.placement.first_last == "qdrop"
    assert sum(recipe.plan.scheme) == UNITS[model]
    assert found.images == 16 * recipe.reconstruct.batch_size
    assert found.network == ("mobilenetv2_100" if model == "mobilenet_v2" else model)
    assert found.weights == Path(f"/models/{model}.pth.tar")
    assert {note.key for note in found.ignored} == {
        "quantize.reconstruction.keep_gpu",
        "data.pin_memory",
    }


def test_a_recipe_survives_being_written(tmp_path: Path) -> None:
    recipe = read(tmp_path, settings()).recipe
    (tmp_path / "ours.yaml").write_text(recipe.to_yaml())
    assert read_recipe(tmp_path / "ours.yaml") == recipe
    assert not is_mqbench(tmp_path / "ours.yaml")
    assert is_mqbench(tmp_path / "experiment.yaml")


@pytest.mark.parametrize(
    ("width", "name"),
    [(0.75, "mobilenetv2_075"), (0.35, "mobilenetv2_035"), (1.0, "mobilenetv2_100")],
)
def test_width_is_part_of_the_name(width: float, name: str, tmp_path: Path) -> None:
    content = settings("mobilenet_v2")
    content["model"]["kwargs"]["width_mult"] = width
    assert read(tmp_path, content).network == name


def test_missing_keys_come_from_the_root(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(settings()))
    found = read(tmp_path, {"root": "base.yaml", "quantize": {"reconstruction": {"max_count": 7}}})
    assert found.recipe.reconstruct.steps == 7
    assert found.recipe.reconstruct.warm_up == 0.2
    with pytest.raises(RecipeError, match="itself as root"):
        read(tmp_path, {"root": "experiment.yaml"})


def test_naive_quantization_takes_no_steps(tmp_path: Path) -> None:
    content = changed("quantize.quantize_type", "naive_ptq")
    content["extra_prepare_dict"]["extra_qconfig_dict"]["w_fakequantize"] = "FixedFakeQuantize"
    recipe = read(tmp_path, content).recipe
    assert recipe.reconstruct.steps == 0
    assert recipe.plan.join == "none"


def test_excluded_nodes_become_patterns(tmp_path: Path) -> None:
    content = changed("quantize.reconstruction.exclude_node", ["layer1_0_conv1"])
    content["quantize"]["reconstruction"]["exclude_node_prefix"] = ["layer4"]
    exclude = read(tmp_path, content).recipe.reconstruct.exclude
    assert exclude == ("layer1[._]0[._]conv1", "layer4*")


def test_absent_keys_are_what_mqbench_takes(tmp_path: Path) -> None:
    gone = [
        f"{QCONFIG}.{kind}_qscheme.{key}"
        for kind in "wa"
        for key in ("p", "symmetry", "per_channel")
    ]
    content = without(settings(), *gone, "quantize.reconstruction.scale_lr", "data.batch_size")
    found = read(tmp_path, content)
    recipe = found.recipe
    assert (recipe.weight.ranges.p, recipe.activation.ranges.p) == (2.0, 2.0)
    assert (recipe.weight.symmetric, recipe.activation.symmetric) == (True, True)
    assert not recipe.placement.per_channel_weights
    assert recipe.reconstruct.activation_rate == 0
    assert (recipe.reconstruct.batch_size, found.images) == (64, 16 * 64)
    said = {note.key for note in found.mapped if note.value == "(absent)"}
    assert said == {*gone, "quantize.reconstruction.scale_lr", "data.batch_size"} - {
        f"{QCONFIG}.a_qscheme.per_channel"
    }


@pytest.mark.parametrize("gone", ["quantize.reconstruction", "quantize"])
def test_what_a_file_does_not_ask_for_is_not_tuned(gone: str, tmp_path: Path) -> None:
    found = read(tmp_path, without(settings(), gone))
    assert found.recipe.reconstruct.steps == 0
    assert found.recipe.plan.join == "none"
    assert ("quantize.reconstruction", "(absent)") in [note[:2] for note in found.mapped]


@pytest.mark.parametrize("gone", ["w_qscheme", "a_qscheme", "w_observer", "a_fakequantize"])
def test_what_mqbench_cannot_do_without_is_named(gone: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"lacks {QCONFIG}.{gone}, which have no default"):
        read(tmp_path, without(settings(), f"{QCONFIG}.{gone}"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            preset("w4a4-qdrop").model_dump(mode="json"),
            "it is a recipe of mrecg, give it with --rec",
        ),
        ({"model": {"type": "resnet18"}}, "says nothing about quantization.*got model"),
        ({"quantize": {"kind": "best"}}, "no key about quantization that is known, got .*kind"),
        ({**settings(), "quant": {}}, "MQBench and of QDrop"),
    ],
)
def test_a_file_of_something_else_is_refused(
    content: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        read(tmp_path, content)


def test_excluded_modules_stay_in_float(tmp_path: Path) -> None:
    key = "extra_prepare_dict.extra_quantizer_dict.exclude_module_name"
    found = read(tmp_path, changed(key, ["layer1.0", "fc"]))
    graph = prepare_graph(build("resnet18"), torch.zeros(2, 3, 64, 64), found.recipe, None)
    assert set(graph.left_in_float) == {"layer1.0.conv1", "layer1.0.conv2", "fc"}
    read_by = [one.readers for one in graph.placed if not one.is_weight]
    assert not any("fc" in readers for readers in read_by)
    with pytest.raises(RecipeError, match=r"exclude_module_name.*expected names, got"):
        read(tmp_path, changed(key, [3]))


def test_excluded_nodes_read_floats_and_keep_their_weights_quantized(tmp_path: Path) -> None:
    key = "extra_prepare_dict.extra_quantizer_dict.exclude_node_name"
    found = read(tmp_path, changed(key, ["layer1_0_conv2"]))
    graph = prepare_graph(build("resnet18"), torch.zeros(2, 3, 64, 64), found.recipe, None)
    assert graph.left_in_float == ()
    read_by = {name for one in graph.placed if not one.is_weight for name in one.readers}
    weights = {name for one in graph.placed if one.is_weight for name in one.readers}
    assert weights - read_by == {"layer1.0.conv2"}


@pytest.mark.parametrize(
    ("width", "pattern", "groups"),
    [(0.5, "block", [1] * 18), (1.0, "layer", None), (None, "block", None)],
)
def test_units_without_a_scheme_are_those_of_the_papers_code(
    width: float | None, pattern: str, groups: list[int] | None, tmp_path: Path
) -> None:
    """In MobileNetV2 the first group takes the stem and a block, the last the last convolution and the classifier."""
    content = settings("resnet18" if width is None else "mobilenet_v2")
    content["quantize"]["reconstruction"].pop("scheme")
    if width is not None:
        content["model"]["kwargs"]["width_mult"] = width
    content["quantize"]["reconstruction"]["pattern"] = pattern
    plan = read(tmp_path, content).recipe.plan
    assert plan.join == ("none" if groups is None else "scheme")
    assert list(plan.scheme) == (groups or [])
    assert plan.cut == "behind-quantizers"


def test_models_have_their_names_in_mqbench_and_qdrop(tmp_path: Path) -> None:
    names = ("resnet18", "resnet34", "resnet50", "resnet101", "regnetx_200m", "regnetx_400m")
    for name in (*names, "regnetx_600m", "regnetx_800m", "regnetx_1600m", "regnetx_3200m"):
        assert read(tmp_path, changed("model.type", name)).network == name
    foreign = ("efficientnet", "mobilenetv2", "small")
    for name in (known for known in NETWORKS if not any(part in known for part in foreign)):
        assert read(tmp_path, changed("model.type", name)).network == name
    assert read(tmp_path, changed("model.type", "mobilenetv2")).network == "mobilenetv2_100"
    found = read(tmp_path, changed("model.type", "mnasnet"))
    assert found.network is None
    assert "--network" in {note.key: note.remark for note in found.ignored}["model.type"]


def test_what_nobody_reads_is_listed(tmp_path: Path) -> None:
    content = changed("quantize.deploy.model_name", "net")
    content["data"]["color"] = "blue"
    remarks = {note.key: note.remark for note in read(tmp_path, content).ignored}
    assert "neither MQBench" in remarks["data.color"]
    assert "mrecg export" in remarks["quantize.deploy.model_name"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("quantize.reconstruction.scheme", "[1, __import__('os').getcwd()]", "expected a list"),
        ("quantize.reconstruction.scheme", "[1, (2, 'a')]", "expected a list"),
        ("quantize.reconstruction.scheme", "[1, ()]", "expected a list"),
        ("quantize.reconstruction.scheme", "[" * 5000, "expected a list"),
        ("quantize.reconstruction.max_count", "many", "max_count.*'many'"),
        ("quantize.reconstruction.prob", 0, "prob"),
        ("quantize.reconstruction.pattern", "net", "pattern"),
        ("quantize.reconstruction.round_mode", "nearest", "expected learned_hard_sigmoid"),
        ("quantize.quantize_type", "expert_ptq", "there is no 'expert_ptq'"),
        ("quantize.backend", "Tensort", "did you mean 'tensorrt'"),
        ("quantize.cali_batchsize", "all", "cali_batchsize.*whole number"),
        ("data.batch_size", 0, "batch_size.*at least 1, got 0"),
        ("quantize.reconstruction", 3, "expected a section of keys, got 3"),
        ("model.type", "resnet81", "did you mean 'resnet18'"),
        ("extra_prepare_dict.extra_qconfig_dict.w_observer", "MSEObserve", "'MSEObserver'"),
        ("extra_prepare_dict.extra_qconfig_dict.w_qscheme.bit", 1, "expected 2 to 8 bits"),
        ("extra_prepare_dict.extra_qconfig_dict.a_qscheme.per_channel", True, "one range per"),
        ("extra_prepare_dict.extra_qconfig_dict.w_fakequantize", "FixedFakeQuantize", "AdaRound"),
    ],
)
def test_mistakes_are_explained(key: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        read(tmp_path, changed(key, value))


BOMB = "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quantize:\n\tquantize_type: naive_ptq\n", "cannot be read.*tab|cannot be read.*\\\\t"),
        (BOMB, r"alias '\*a' is not accepted"),
        ("quantize: !!python/object/apply:os.getcwd []\n", "cannot be read.*python/object"),
        ("- 1\n", "holds list"),
        ("", "holds NoneType"),
        ("quantize: {\n", "cannot be read"),
        ("[" * 3000, "cannot be read"),
    ],
)
def test_bad_yaml_is_explained(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        read(tmp_path, text)
    with pytest.raises(RecipeError, match=message):
        read_recipe(tmp_path / "experiment.yaml")


def test_every_key_of_the_table_can_be_read(tmp_path: Path) -> None:
    """No row of the table is dead: each is a leaf of a file, or tested above by name."""
    observers = {
        f"{QCONFIG}.{kind}_{section}.{key}"
        for kind in "wa"
        for section in ("qscheme", "observer_extra_args")
        for key in ("p", "ema_ratio", "std_scale", "threshold")
    }
    others = observers | {
        "quantize.backend",
        "quantize.reconstruction",
        "extra_prepare_dict.extra_quantizer_dict.exclude_module_name",
        "extra_prepare_dict.extra_quantizer_dict.exclude_node_name",
        "quantize.reconstruction.exclude_node",
        "quantize.reconstruction.exclude_node_prefix",
        "model.kwargs.width_mult",
        "extra_prepare_dict.extra_qconfig_dict.w_qscheme.symmetric_range",
        "extra_prepare_dict.extra_qconfig_dict.a_qscheme.symmetric_range",
    }
    assert set(KEYS) - others <= leaves(settings())
    content = copy.deepcopy(settings())
    for kind in ("w", "a"):
        scheme = content["extra_prepare_dict"]["extra_qconfig_dict"][f"{kind}_qscheme"]
        scheme |= {"symmetric_range": True, "symmetry": True}
    recipe = read(tmp_path, content).recipe
    assert recipe.weight.narrow
    assert recipe.activation.narrow
