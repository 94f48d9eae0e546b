"""The keys of MQBench files, and what becomes of each: recipe settings, fields of an experiment, or a reason to ignore it."""

import ast
from collections.abc import Callable, Mapping
from typing import Any

from mrecg.config.targets import ACADEMIC, find_backend
from mrecg.errors import RecipeError, did_you_mean

__all__ = ["ADAROUND", "DEPLOYMENT", "IGNORED", "KEYS", "LOGARITHMIC", "QCONFIG", "WIDTH"]

QCONFIG = "extra_prepare_dict.extra_qconfig_dict"
_TUNING = "quantize.reconstruction"
ADAROUND = "AdaRoundFakeQuantize"
LOGARITHMIC = "NNIEFakeQuantize"
WIDTH = "width_mult"
DEPLOYMENT = "the run folder holds the result; mrecg export writes it for a runtime"

_OBSERVERS: Mapping[str, Mapping[str, Any]] = {
    "MSEObserver": {"ranges.method": "error"},
    "EMAMSEObserver": {"ranges.method": "error"},
    "MinMaxObserver": {"ranges.method": "minmax"},
    "EMAMinMaxObserver": {"ranges.method": "minmax"},
    "MinMaxFloorObserver": {"ranges.method": "minmax", "power_of_two": True},
    "EMAMinMaxFloorObserver": {"ranges.method": "minmax", "power_of_two": True},
    "ModeMinMaxFloorObserver": {"ranges.method": "minmax", "power_of_two": True},
    "PoTModeObserver": {"ranges.method": "minmax", "power_of_two": True},
    "EMAQuantileObserver": {"ranges.method": "percentile", "ranges.percentile": 99.999},
    "ClipStdObserver": {"ranges.method": "std", "ranges.std_multiple": 2.6},
    "LSQObserver": {"ranges.method": "lsq"},
}
"""The range search that replaces an observer.

MQBench's EMA observers average over batches, so their ranges depend on the order of the images; here a range search sees
all images at once, and `MSEObserver` and `EMAMSEObserver` are one. The 2.6 of `ClipStdObserver` and the 99.999 of
`EMAQuantileObserver` are constants in MQBench's source, which no key changes.
"""

_TRAINED = (
    "its function of the weights or activations is made for training; uniform quantization is used"
)
_WEIGHT_QUANTIZERS: Mapping[str, Mapping[str, Any] | str] = {
    ADAROUND: {},
    LOGARITHMIC: {},
    "FixedFakeQuantize": {},
    "LearnableFakeQuantize": {},
    "TqtFakeQuantize": {"weight.power_of_two": True},
    "DoReFaFakeQuantize": _TRAINED,
    "DSQFakeQuantize": _TRAINED,
    "PACTFakeQuantize": _TRAINED,
}
# MQBench drops only in QDropFakeQuantize; the others must win over the file's `prob`, so they come later in KEYS.
_NO_DROPPING = {"reconstruct.keep_quantized_probability": 1.0}
_ACTIVATION_QUANTIZERS: Mapping[str, Mapping[str, Any] | str] = {
    "QDropFakeQuantize": {},
    LOGARITHMIC: _NO_DROPPING,
    "LearnableFakeQuantize": _NO_DROPPING,
    "FixedFakeQuantize": {**_NO_DROPPING, "reconstruct.activation_rate": 0.0},
    "TqtFakeQuantize": {**_NO_DROPPING, "activation.power_of_two": True},
    "DoReFaFakeQuantize": _TRAINED,
    "DSQFakeQuantize": _TRAINED,
    "PACTFakeQuantize": _TRAINED,
}


def _named(table: Mapping[str, Any], prefix: str = "") -> Callable[[Any], Any]:
    """Make a reader of names that looks them up in `table`."""

    def look_up(value: Any) -> Any:
        if value not in table:
            raise RecipeError(f"there is no {value!r} here{did_you_mean(str(value), table)}")
        found = table[value]
        if isinstance(found, str):
            return found
        return {prefix + key: setting for key, setting in found.items()}

    return look_up


def _to(*keys: str) -> Callable[[Any], Mapping[str, Any]]:
    """Make a reader that passes the value on under our names."""
    return lambda value: dict.fromkeys(keys, value)


def _only(allowed: object, reason: str) -> Callable[[Any], str]:
    """Make a reader that accepts one value only, and ignores the key for `reason`."""

    def check(value: Any) -> str:
        if value != allowed:
            raise RecipeError(f"expected {allowed}, got {value}; {reason}")
        return reason

    return check


def _excluded(value: Any, suffix: str = "") -> Mapping[str, Any]:
    """Turn names of graph nodes into patterns of layer names; torch.fx writes underscores for dots."""
    names = [value] if isinstance(value, str) else list(value or ())
    return {"exclude": [name.replace("_", "[._]") + suffix for name in names]}


def _scheme(value: Any) -> Mapping[str, Any]:
    """Read the group sizes of a scheme: an integer is one unit, a tuple as many as it has entries.

    The authors' code calls `eval` on the text; here it is parsed as a literal.
    """
    try:
        groups = ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise RecipeError(f"expected a list of integers and tuples, got {value[:80]!r}") from error
    sizes = []
    for group in groups if isinstance(groups, list | tuple) else [groups]:
        members = group if isinstance(group, list | tuple) else [group]
        if not members or not all(type(member) is int for member in members):
            raise RecipeError(f"expected a list of integers and tuples of them, got {group!r}")
        sizes.append(len(members))
    return {"plan.join": "scheme", "plan.scheme": sizes}


def _backend(value: Any) -> Mapping[str, Any]:
    name = str(value).lower()
    if name != ACADEMIC:
        find_backend(name)
    return {"backend": name}


_TYPES: Mapping[str, Mapping[str, Any]] = {
    "advanced_ptq": {},
    "naive_ptq": {"reconstruct.steps": 0, "plan.join": "none", "plan.scheme": []},
}
_MODELS = {"resnet18", "resnet50", "mobilenet_v2", "regnetx_600m"}


def _model(value: Any) -> Mapping[str, Any]:
    if value not in _MODELS:
        raise RecipeError(f"there is no model {value!r}{did_you_mean(str(value), _MODELS)}")
    return {"network": value}


KEYS: Mapping[str, Callable[[Any], Mapping[str, Any] | str]] = {
    f"{QCONFIG}.w_observer": _named(_OBSERVERS, "weight."),
    f"{QCONFIG}.a_observer": _named(_OBSERVERS, "activation."),
    f"{QCONFIG}.w_qscheme.bit": _to("weight.bits"),
    f"{QCONFIG}.w_qscheme.symmetry": _to("weight.symmetric"),
    f"{QCONFIG}.w_qscheme.per_channel": _to("placement.per_channel_weights"),
    f"{QCONFIG}.w_qscheme.pot_scale": _to("weight.power_of_two"),
    f"{QCONFIG}.w_qscheme.symmetric_range": _to("weight.narrow"),
    f"{QCONFIG}.w_qscheme.p": _to("weight.ranges.p"),
    f"{QCONFIG}.a_qscheme.bit": _to("activation.bits"),
    f"{QCONFIG}.a_qscheme.symmetry": _to("activation.symmetric"),
    f"{QCONFIG}.a_qscheme.per_channel": _only(False, "activations have one range per tensor"),
    f"{QCONFIG}.a_qscheme.pot_scale": _to("activation.power_of_two"),
    f"{QCONFIG}.a_qscheme.symmetric_range": _to("activation.narrow"),
    f"{QCONFIG}.a_qscheme.p": _to("activation.ranges.p"),
    # Despite its name the number of batches; the batch size is data.batch_size.
    "quantize.cali_batchsize": _to("calibration_batches"),
    f"{_TUNING}.pattern": _to("plan.granularity"),
    f"{_TUNING}.scale_lr": _to("reconstruct.activation_rate"),
    f"{_TUNING}.warm_up": _to("reconstruct.warm_up"),
    f"{_TUNING}.weight": _to("reconstruct.penalty"),
    f"{_TUNING}.max_count": _to("reconstruct.steps"),
    f"{_TUNING}.b_range": _to("reconstruct.beta"),
    f"{_TUNING}.round_mode": _only(
        "learned_hard_sigmoid", "rounding is learned through AdaRound's rectified sigmoid"
    ),
    # The probability of keeping a quantized value, although QDrop's paper calls p the probability of dropping.
    f"{_TUNING}.prob": _to("reconstruct.keep_quantized_probability"),
    f"{_TUNING}.scheme": _scheme,
    f"{_TUNING}.exclude_node": _excluded,
    f"{_TUNING}.exclude_node_prefix": lambda value: _excluded(value, "*"),
    "model.type": _model,
    "model.path": _to("weights"),
    "model.kwargs.num_classes": _to("num_classes"),
    "model.kwargs.width_mult": _to(WIDTH),
    "data.path": _to("data"),
    "data.batch_size": _to("batch_size"),
    "data.num_workers": _to("workers"),
    "data.input_size": _to("crop"),
    "data.test_resize": _to("resize"),
    "process.seed": _to("seed"),
    f"{QCONFIG}.w_fakequantize": _named(_WEIGHT_QUANTIZERS),
    f"{QCONFIG}.a_fakequantize": _named(_ACTIVATION_QUANTIZERS),
    "quantize.quantize_type": _named(_TYPES),
    "quantize.backend": _backend,
}

"""In the order of reading: a later key overrides an earlier one."""

IGNORED = {
    f"{_TUNING}.keep_gpu": "the option --memory limits what cached activations take",
    "data.pin_memory": "images are copied to the device in batches",
}
