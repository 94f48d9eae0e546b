"""The authors' configuration files: every key is mapped or listed with a reason, nothing in them is executed."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from configuration_files import SCHEMES, qdrop_settings, settings
from mrecg.config.presets import preset
from mrecg.config.recipe import read_recipe
from mrecg.config.targets import BACKENDS
from mrecg.config.yaml_files import flat
from mrecg.errors import RecipeError
from mrecg.paper.mqbench import Experiment, is_mqbench, read_experiment
from mrecg.paper.mqbench.keys import KEYS
from mrecg.paper.networks import NETWORKS, build
from mrecg.preparation.prepared_graph import prepare_graph

UNITS = {"mobilenet_v2": 18, "resnet18": 10, "resnet50": 18, "regnetx_600m": 18}


def read(tmp_path: Path, content: dict[str, Any] | str) -> Experiment:
    path = tmp_path / "experiment.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return read_experiment(path)


def changed(key: str, value: Any) -> dict[str, Any]:
    content = settings()
    *parents, last = key.split(".")
    inner = content
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = value
    return content


def leaves(content: dict[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in content.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found


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


@pytest.mark.parametrize("observer", ["w_observer", "a_observer"])
@pytest.mark.parametrize(
    ("name", "method", "power_of_two"),
    [
        ("MinMaxObserver", "minmax", False),
        ("EMAMinMaxObserver", "minmax", False),
        ("EMAQuantileObserver", "magnitude", False),
        ("ClipStdObserver", "std", False),
        ("LSQObserver", "lsq", False),
        ("MinMaxFloorObserver", "minmax", True),
        ("PoTModeObserver", "minmax", True),
    ],
)
def test_observers(
    observer: str, name: str, method: str, power_of_two: bool, tmp_path: Path
) -> None:
    content = changed(f"extra_prepare_dict.extra_qconfig_dict.{observer}", name)
    recipe = read(tmp_path, content).recipe
    tensor = recipe.weight if observer[0] == "w" else recipe.activation
    assert (tensor.ranges.method, tensor.power_of_two) == (method, power_of_two)
    averaged = 0.9 if name.startswith("EMA") or observer[0] == "w" else None
    assert (
        recipe.activation.ranges.running_mean == averaged
    )  # of the file's EMAMSEObserver, or of none


def test_naive_quantization_takes_no_steps(tmp_path: Path) -> None:
    content = changed("quantize.quantize_type", "naive_ptq")
    content["extra_prepare_dict"]["extra_qconfig_dict"]["w_fakequantize"] = "FixedFakeQuantize"
    recipe = read(tmp_path, content).recipe
    assert recipe.reconstruct.steps == 0
    assert recipe.plan.join == "none"


def test_fixed_activations_neither_learn_nor_drop(tmp_path: Path) -> None:
    key = "extra_prepare_dict.extra_qconfig_dict.a_fakequantize"
    tuning = read(tmp_path, changed(key, "FixedFakeQuantize")).recipe.reconstruct
    assert tuning.activation_rate == 0
    assert tuning.keep_quantized_probability == 1


def test_excluded_nodes_become_patterns(tmp_path: Path) -> None:
    content = changed("quantize.reconstruction.exclude_node", ["layer1_0_conv1"])
    content["quantize"]["reconstruction"]["exclude_node_prefix"] = ["layer4"]
    exclude = read(tmp_path, content).recipe.reconstruct.exclude
    assert exclude == ("layer1[._]0[._]conv1", "layer4*")


MQBENCH_BACKENDS = {"tensorrt": "Tensorrt", "vitis": "Vitis", "tengine_u8": "Tengine_u8"}
OURS_ALONE = ("onnxruntime", "onnxruntime_avx2", "xnnpack", "nnie")
QCONFIG = "extra_prepare_dict.extra_qconfig_dict"


def without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Remove keys from a file."""
    for key in keys:
        *parents, last = key.split(".")
        inner = content
        for parent in parents:
            inner = inner[parent]
        del inner[last]
    return content


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name not in OURS_ALONE])
def test_schemes_win_over_a_backend(backend: str, tmp_path: Path) -> None:
    """As in MQBench since April 2022: the target places the quantizers, the file says what each is like."""
    content = changed("quantize.backend", MQBENCH_BACKENDS.get(backend, backend.upper()))
    found = read(tmp_path, content)
    target = BACKENDS[backend]
    recipe = found.recipe
    assert (recipe.weight.bits, recipe.activation.bits) == (2, 4)
    assert (recipe.weight.symmetric, recipe.activation.symmetric) == (False, False)
    assert recipe.placement.per_channel_weights
    assert recipe.placement.tensors == target.settings["placement.tensors"]
    assert recipe.placement.first_last == "same"
    assert recipe.weight.ranges.p == 2.4
    (remark,) = (note.remark for note in found.mapped if note.key == "quantize.backend")
    # What the target's integers cannot hold is simulated, and said.
    fits = backend == "pplcuda"
    assert recipe.placement.backend == (backend if fits else "academic")
    assert ("cannot run" in remark) != fits


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name not in OURS_ALONE])
def test_without_schemes_a_backend_has_its_own(backend: str, tmp_path: Path) -> None:
    content = changed("quantize.backend", MQBENCH_BACKENDS.get(backend, backend.upper()))
    without(content, f"{QCONFIG}.w_qscheme", f"{QCONFIG}.a_qscheme", f"{QCONFIG}.a_observer")
    recipe, target = read(tmp_path, content).recipe, BACKENDS[backend]
    assert recipe.placement.backend == backend
    assert (recipe.weight.bits, recipe.activation.bits) == target[:2]
    averaged = {"onnx_qnn": None, "pplcuda": None, "vitis": None}.get(backend, 0.9)
    assert recipe.activation.ranges.running_mean == averaged
    assert recipe.activation.ranges.method == "minmax"


@pytest.mark.parametrize("narrow", [None, True, False])
def test_tensorrt_uses_every_code_unless_the_file_says_otherwise(
    narrow: bool | None, tmp_path: Path
) -> None:
    content = changed("quantize.backend", "Tensorrt")
    for kind, per_channel in (("w", True), ("a", False)):
        scheme = {"bit": 8, "symmetry": True, "per_channel": per_channel}
        scheme |= {} if narrow is None else {"symmetric_range": narrow}
        content["extra_prepare_dict"]["extra_qconfig_dict"][f"{kind}_qscheme"] = scheme
    recipe = read(tmp_path, content).recipe
    assert (recipe.weight.narrow, recipe.activation.narrow) == (bool(narrow), bool(narrow))
    assert recipe.placement.backend == ("tensorrt" if narrow else "academic")


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


@pytest.mark.parametrize(
    ("key", "value", "setting"),
    [
        ("a_observer_extra_args.ema_ratio", 0.8, "activation.ranges.running_mean"),
        ("a_qscheme.ema_ratio", 0.8, "activation.ranges.running_mean"),
        ("w_observer_extra_args.p", 3.0, "weight.ranges.p"),
        ("a_qscheme.std_scale", 3.0, "activation.ranges.std_multiple"),
        ("a_qscheme.threshold", 0.999, "activation.ranges.percentile"),
    ],
)
def test_arguments_of_observers_are_honored(
    key: str, value: float, setting: str, tmp_path: Path
) -> None:
    dumped = dict(flat(read(tmp_path, changed(f"{QCONFIG}.{key}", value)).recipe.model_dump()))
    assert dumped[setting] == pytest.approx(100 * value if "threshold" in key else value)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (f"{QCONFIG}.w_observer_extra_args.ema_ratio", "observed once"),
        (f"{QCONFIG}.a_observer_extra_args.bins", "observer's constructor"),
        (f"{QCONFIG}.w_qscheme.quant_min", "observer's constructor"),
        (f"{QCONFIG}.a_fakeq_params.use_grad_scaling", "Adam's step"),
        (f"{QCONFIG}.w_fakeq_params.alpha", "quantizer's constructor"),
        (
            "extra_prepare_dict.extra_quantizer_dict.additional_node_name",
            "by what an operator does",
        ),
        ("extra_prepare_dict.concrete_args", "torch.export"),
    ],
)
def test_what_is_not_honored_is_named_with_the_reason(
    key: str, reason: str, tmp_path: Path
) -> None:
    notes = {note.key: note.remark for note in read(tmp_path, changed(key, 1)).ignored}
    assert reason in notes[key]


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


def test_the_files_of_qdrop_resolve(tmp_path: Path) -> None:
    content = qdrop_settings()
    found = read(tmp_path, content)
    noted = [note.key for note in (*found.mapped, *found.ignored)]
    assert sorted(noted) == sorted(leaves(content))
    assert {note.key for note in found.ignored} == {
        "quant.recon.keep_gpu",
        "data.batch_size",
        "data.pin_memory",
    }
    changes = {
        "name": "experiment",
        "activation.ranges.running_mean": None,
        "reconstruct.batch_size": 32,
        "reconstruct.batches": "reshuffled",
    }
    assert found.recipe == preset("w2a4-qdrop", changes, "paper")
    assert (found.images, found.network) == (1024, "resnet18")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("a_qconfig.quantizer", "FixedFakeQuantize", {"reconstruct.activation_rate": 0.0}),
        ("a_qconfig.observer", "AvgMinMaxObserver", {"activation.ranges.method": "minmax"}),
        ("w_qconfig.ch_axis", -1, {"placement.per_channel_weights": False}),
        ("w_qconfig.symmetric", True, {"weight.symmetric": True}),
        ("recon", None, {"reconstruct.steps": 0}),
    ],
)
def test_keys_of_qdrop(key: str, value: Any, wanted: dict[str, Any], tmp_path: Path) -> None:
    content = qdrop_settings()
    *parents, last = ("quant." + key).split(".")
    inner = content
    for parent in parents:
        inner = inner[parent]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    dumped = dict(flat(read(tmp_path, content).recipe.model_dump()))
    assert {name: dumped[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("w_qconfig.ch_axis", 1, r"expected 0 \(a range per output channel\) or -1, got 1"),
        ("a_qconfig.ch_axis", 0, "one range per tensor"),
        ("a_qconfig.observer", "MSEObserve", "did you mean 'MSEObserver'"),
        ("calibrate", "all", "whole number"),
        ("w_qconfig.quantizer", "FixedFakeQuantize", "expected AdaRoundFakeQuantize .or no recon"),
    ],
)
def test_mistakes_in_files_of_qdrop(key: str, value: Any, message: str, tmp_path: Path) -> None:
    content = qdrop_settings()
    *parents, last = key.split(".")
    inner = content["quant"]
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    with pytest.raises(RecipeError, match=message):
        read(tmp_path, content)


@pytest.mark.parametrize("steps", [0, 20000])
def test_the_quantizers_of_nnie(steps: int, tmp_path: Path) -> None:
    """Its rounding is learned like AdaRound's, its activations neither learn nor drop."""
    content = changed("quantize.quantize_type", "advanced_ptq" if steps else "naive_ptq")
    extra = content["extra_prepare_dict"]["extra_qconfig_dict"]
    extra |= {"w_fakequantize": "NNIEFakeQuantize", "a_fakequantize": "NNIEFakeQuantize"}
    extra |= {"w_observer": "MinMaxObserver", "a_observer": "EMAMinMaxObserver"}
    with pytest.raises(RecipeError, match=r"set quantize\.backend: NNIE"):
        read(tmp_path, content)
    content["quantize"]["backend"] = "NNIE"
    recipe = read(tmp_path, content).recipe
    assert recipe.placement.backend == "nnie"
    assert recipe.reconstruct.steps == steps
    assert recipe.reconstruct.keep_quantized_probability == 1
    extra["a_fakequantize"] = "QDropFakeQuantize"
    assert read(tmp_path, content).recipe.reconstruct.keep_quantized_probability == 0.5


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
