"""The authors' configuration files: every key is mapped or listed with a reason, nothing in them is executed."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from configuration_files import SCHEMES, settings
from mrecg.config.recipe import read_recipe
from mrecg.config.targets import BACKENDS
from mrecg.errors import RecipeError
from mrecg.paper.mqbench import Experiment, is_mqbench, read_experiment
from mrecg.paper.mqbench.keys import KEYS

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
    assert recipe.reconstruct.penalty == (0.1 if model == "mobilenet_v2" else 0.01)
    assert recipe.reconstruct.batch_size == (128 if model == "resnet50" else 256)
    assert recipe.placement.first_last == "qdrop"
    assert sum(recipe.plan.scheme) == UNITS[model]
    assert found.images == 16 * recipe.reconstruct.batch_size
    assert found.network == ("mobilenetv2_100" if model == "mobilenet_v2" else model)
    assert found.weights == Path(f"/models/{model}.pth.tar")
    assert {note.key for note in found.ignored} == {
        "quantize.reconstruction.keep_gpu",
        "quantize.reconstruction.round_mode",
        "extra_prepare_dict.extra_qconfig_dict.a_qscheme.per_channel",
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
        ("EMAQuantileObserver", "percentile", False),
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
    kind = "w_qscheme" if observer[0] == "w" else "a_qscheme"
    del content["extra_prepare_dict"]["extra_qconfig_dict"][kind]["pot_scale"]
    recipe = read(tmp_path, content).recipe
    tensor = recipe.weight if observer[0] == "w" else recipe.activation
    assert (tensor.ranges.method, tensor.power_of_two) == (method, power_of_two)


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


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_decides_over_the_schemes(backend: str, tmp_path: Path) -> None:
    content = changed("quantize.backend", {"tensorrt": "Tensorrt"}.get(backend, backend.upper()))
    found = read(tmp_path, content)
    target = BACKENDS[backend]
    widths = (2, 4) if backend == "tensorrt" else (target.weight_bits, target.activation_bits)
    assert (found.recipe.weight.bits, found.recipe.activation.bits) == widths
    assert found.recipe.placement.backend == backend
    decided = [note for note in found.ignored if "decides" in note.remark]
    # TensorRT leaves the widths to the file, and logarithms have nothing to observe but the largest element.
    assert len(decided) == {"tensorrt": 5, "nnie": 9}.get(backend, 7)
    assert found.recipe.weight.logarithmic == (backend == "nnie")


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
        ("quantize.cali_batchsize", "all", "calibration_batches"),
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
    others = {
        "quantize.backend",
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
