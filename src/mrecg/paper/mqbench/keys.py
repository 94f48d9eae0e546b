"""The keys of MQBench files, and what becomes of each: recipe settings, fields of an experiment, or a reason to ignore it."""

import ast
from collections.abc import Mapping
from typing import Any

from mrecg.config.settings import FLOAT_BITS
from mrecg.config.targets import ACADEMIC, find_backend
from mrecg.errors import RecipeError, quoted
from mrecg.paper.mqbench.readers import (
    COMMON_IGNORED,
    COMMON_KEYS,
    FLOAT_LAYERS,
    Reader,
    named,
    names,
    only,
    positive,
    to,
)

__all__ = [
    "ADAROUND",
    "IGNORED",
    "IGNORED_SECTIONS",
    "KEYS",
    "LOGARITHMIC",
    "NO_TUNING",
    "QCONFIG",
    "TUNING",
    "no_tuning",
]

QCONFIG = "extra_prepare_dict.extra_qconfig_dict"
TUNING = "quantize.reconstruction"
_PLACEMENT = "extra_prepare_dict.extra_quantizer_dict"
ADAROUND = "AdaRoundFakeQuantize"
LOGARITHMIC = "NNIEFakeQuantize"
NO_TUNING: Mapping[str, Any] = {
    "reconstruct.steps": 0,
    "plan.join": "none",
    "plan.scheme": [],
}

_OBSERVERS: Mapping[str, Mapping[str, Any]] = {
    "MSEObserver": {"method": "error"},
    "EMAMSEObserver": {"method": "error"},
    "MinMaxObserver": {"method": "minmax"},
    "EMAMinMaxObserver": {"method": "minmax"},
    "MinMaxFloorObserver": {"method": "minmax"},
    "EMAMinMaxFloorObserver": {"method": "minmax"},
    "ModeMinMaxFloorObserver": {"method": "minmax"},
    "PoTModeObserver": {"method": "minmax"},
    "EMAQuantileObserver": {"method": "magnitude", "percentile": 99.999},
    "ClipStdObserver": {"method": "std", "std_multiple": 2.6},
    "LSQObserver": {"method": "lsq"},
}
"""The range search that replaces an observer, with the constants that MQBench's constructors have by default."""

_POWERS_OF_TWO = {name for name in _OBSERVERS if "Floor" in name or name.startswith("PoT")}
_EMA_RATIO = 0.9


def _observers(kind: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the settings of weights or activations for each observer; weights are observed once, so nothing is averaged."""
    table: dict[str, dict[str, Any]] = {}
    for name, ranges in _OBSERVERS.items():
        table[name] = {f"{kind}.ranges.{key}": value for key, value in ranges.items()}
        if name in _POWERS_OF_TWO:
            table[name][f"{kind}.power_of_two"] = True
        if kind == "activation":
            ratio = _EMA_RATIO if name.startswith("EMA") else None
            table[name]["activation.ranges.running_mean"] = ratio
    return table


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


def _excluded(value: Any, suffix: str = "") -> Mapping[str, Any]:
    """Turn names of graph nodes into patterns of layer names; torch.fx writes underscores for dots."""
    return {"exclude": [name.replace("_", "[._]") + suffix for name in names(value)]}


def _left_in_float(value: Any) -> Mapping[str, Any]:
    """Leave weights and inputs of modules in float, and those of the layers inside of them."""
    widths = {"weight_bits": FLOAT_BITS, "activation_bits": FLOAT_BITS}
    return {FLOAT_LAYERS: [{"layers": name, **widths} for name in names(value)]}


def _inputs_left_in_float(value: Any) -> Mapping[str, Any]:
    """Leave the inputs of layers in float; torch.fx writes underscores for the dots of their names."""
    patterns = [name.replace("_", "[._]") for name in names(value)]
    return {FLOAT_LAYERS: [{"layers": one, "activation_bits": FLOAT_BITS} for one in patterns]}


def _scheme(value: Any) -> Mapping[str, Any]:
    """Read the group sizes of a scheme: an integer is one unit, a tuple as many as it has entries.

    The authors' code calls `eval` on the text; here it is parsed as a literal.
    """
    try:
        groups = ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise RecipeError(f"expected a list of integers and tuples, got {quoted(value)}") from error
    sizes = []
    for group in groups if isinstance(groups, list | tuple) else [groups]:
        members = group if isinstance(group, list | tuple) else [group]
        if not members or not all(type(member) is int for member in members):
            raise RecipeError(
                f"expected a list of integers and tuples of them, got {quoted(group)}"
            )
        sizes.append(len(members))
    return {"plan.join": "scheme", "plan.scheme": sizes}


def _backend(value: Any) -> Mapping[str, Any]:
    """Return the target's quantizers; the schemes of the file come later and win, as in MQBench."""
    name = str(value).lower()
    if name == ACADEMIC:
        return {"backend": name}
    target = find_backend(name)
    changes = {
        "backend": name,
        **target.settings,
        "weight.bits": target.weight_bits,
        "activation.bits": target.activation_bits,
        "activation.ranges.running_mean": None,
        "placement.first_last": "same",
    }
    # No recipe has logarithms without the target that they belong to; MQBench takes nothing but these for NNIE.
    return changes | ({"placement.backend": name} if target.settings["weight.logarithmic"] else {})


_TYPES: Mapping[str, Mapping[str, Any]] = {
    "advanced_ptq": {},
    "ptq": {},
    "naive_ptq": NO_TUNING,
}
"""`ptq` is the name of `advanced_ptq` in files from before 2022."""


def no_tuning(value: Any) -> Mapping[str, Any]:
    """Read a section that is empty or absent: nothing is tuned.

    Raises:
        RecipeError: it is something else.
    """
    if value is not None:
        raise RecipeError(f"expected a section of keys, got {quoted(value)}")
    return NO_TUNING


def _range_keys(kind: str, section: str) -> dict[str, Reader]:
    """Return the keys that MQBench passes on to an observer's constructor."""
    ratio = "activation.ranges.running_mean"
    return {
        f"{section}.p": to(f"{kind}.ranges.p"),
        f"{section}.std_scale": to(f"{kind}.ranges.std_multiple"),
        f"{section}.threshold": lambda value: {f"{kind}.ranges.percentile": 100 * value},
        f"{section}.ema_ratio": to(ratio)
        if kind == "activation"
        else (lambda value: "a weight is observed once, so there is nothing to average"),
    }


def _scheme_keys(kind: str, section: str) -> dict[str, Reader]:
    per_channel = (
        to("placement.per_channel_weights")
        if kind == "weight"
        else only(False, "activations have one range per tensor")
    )
    return {
        f"{section}.bit": to(f"{kind}.bits"),
        f"{section}.symmetry": to(f"{kind}.symmetric"),
        f"{section}.per_channel": per_channel,
        f"{section}.symmetric_range": to(f"{kind}.narrow"),
        f"{section}.pot_scale": to(f"{kind}.power_of_two"),
    }


KEYS: Mapping[str, Reader] = {
    "quantize.backend": _backend,
    **_scheme_keys("weight", f"{QCONFIG}.w_qscheme"),
    **_scheme_keys("activation", f"{QCONFIG}.a_qscheme"),
    f"{QCONFIG}.w_observer": named(_observers("weight")),
    f"{QCONFIG}.a_observer": named(_observers("activation")),
    **_range_keys("weight", f"{QCONFIG}.w_qscheme"),
    **_range_keys("activation", f"{QCONFIG}.a_qscheme"),
    **_range_keys("weight", f"{QCONFIG}.w_observer_extra_args"),
    **_range_keys("activation", f"{QCONFIG}.a_observer_extra_args"),
    # Despite its name the number of batches; the batch size is data.batch_size.
    "quantize.cali_batchsize": positive("batches"),
    "data.batch_size": positive("batch_size"),
    f"{TUNING}.pattern": to("plan.granularity"),
    f"{TUNING}.scale_lr": to("reconstruct.activation_rate"),
    f"{TUNING}.warm_up": to("reconstruct.warm_up"),
    f"{TUNING}.weight": to("reconstruct.penalty"),
    f"{TUNING}.max_count": to("reconstruct.steps"),
    f"{TUNING}.b_range": to("reconstruct.beta"),
    f"{TUNING}.round_mode": only(
        "learned_hard_sigmoid", "rounding is learned through AdaRound's rectified sigmoid"
    ),
    # The probability of keeping a quantized value, although QDrop's paper calls p the probability of dropping.
    f"{TUNING}.prob": to("reconstruct.keep_quantized_probability"),
    f"{TUNING}.scheme": _scheme,
    f"{TUNING}.exclude_node": _excluded,
    f"{TUNING}.exclude_node_prefix": lambda value: _excluded(value, "*"),
    f"{_PLACEMENT}.exclude_module_name": _left_in_float,
    f"{_PLACEMENT}.exclude_node_name": _inputs_left_in_float,
    **COMMON_KEYS,
    f"{QCONFIG}.w_fakequantize": named(_WEIGHT_QUANTIZERS),
    f"{QCONFIG}.a_fakequantize": named(_ACTIVATION_QUANTIZERS),
    "quantize.quantize_type": named(_TYPES),
    TUNING: no_tuning,
}
"""In the order of reading: a later key overrides an earlier one."""

IGNORED: Mapping[str, str] = {
    **COMMON_IGNORED,
    f"{TUNING}.keep_gpu": "the option --memory limits what cached activations take",
    **{
        f"{QCONFIG}.{kind}_fakeq_params.use_grad_scaling": "Adam's step does not depend on the scale of a gradient"
        for kind in ("w", "a")
    },
}

_TO_OBSERVER = (
    "MQBench passes it to the observer's constructor; no range search here has such a setting"
)
_TO_QUANTIZER = (
    "MQBench passes it to the quantizer's constructor; the quantizers here have no such setting"
)
IGNORED_SECTIONS: Mapping[str, str] = {
    "quantize.deploy.": "the run folder holds the result; mrecg export writes it for a runtime",
    f"{_PLACEMENT}.": "quantizers are placed by what an operator does, not by its type or the name of its node; "
    "set placement.tensors or placement.overrides",
    "extra_prepare_dict.": "the network is captured with torch.export, which needs no such hint",
    **{f"{QCONFIG}.{kind}_fakeq_params.": _TO_QUANTIZER for kind in ("w", "a")},
    **{
        f"{QCONFIG}.{kind}_{section}.": _TO_OBSERVER
        for kind in ("w", "a")
        for section in ("qscheme", "observer_extra_args")
    },
}
"""Reasons for the keys in a section that `KEYS` and `IGNORED` do not have; the longest match counts."""
