"""What the authors' files say of quantizers: backends, schemes and observers."""

from pathlib import Path

import pytest

from configuration_files import QCONFIG, changed, read, without
from mrecg.config.targets import BACKENDS
from mrecg.config.yaml_files import flat
from mrecg.errors import RecipeError


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


def test_fixed_activations_neither_learn_nor_drop(tmp_path: Path) -> None:
    key = "extra_prepare_dict.extra_qconfig_dict.a_fakequantize"
    tuning = read(tmp_path, changed(key, "FixedFakeQuantize")).recipe.reconstruct
    assert tuning.activation_rate == 0
    assert tuning.keep_quantized_probability == 1


MQBENCH_BACKENDS = {"tensorrt": "Tensorrt", "vitis": "Vitis", "tengine_u8": "Tengine_u8"}


OURS_ALONE = ("onnxruntime", "onnxruntime_avx2", "xnnpack", "nnie")


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
