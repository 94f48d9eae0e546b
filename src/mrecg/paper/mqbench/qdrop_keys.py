"""The keys of the QDrop repository's files (Wei et al., ICLR 2022), and what becomes of each."""

from collections.abc import Mapping
from typing import Any

from mrecg.errors import RecipeError, quoted
from mrecg.paper.mqbench.keys import ADAROUND, no_tuning
from mrecg.paper.mqbench.readers import (
    COMMON_IGNORED,
    COMMON_KEYS,
    Reader,
    named,
    only,
    positive,
    to,
)

__all__ = ["QDROP_IGNORED", "QDROP_KEYS", "absent_in_qdrop"]

_TUNING = "quant.recon"
_PARTS = ("quantizer", "observer", "bit", "symmetric", "ch_axis")

_RANGES: Mapping[str, Mapping[str, Any]] = {
    "MinMaxObserver": {"method": "minmax"},
    "AvgMinMaxObserver": {"method": "minmax"},
    **{
        f"{name}Observer": {"method": "error", "p": 2.4}
        for name in ("MSE", "AvgMSE", "MSEFast", "AvgMSEFast")
    },
}
"""Its observers see one batch, so averages of several are not to be had."""

_FIXED = {"reconstruct.activation_rate": 0.0}
_ACTIVATION_QUANTIZERS: Mapping[str, Mapping[str, Any] | str] = {
    "LSQFakeQuantize": {},
    "LSQPlusFakeQuantize": "scales are learned, zero points stay as calibrated",
    "FixedFakeQuantize": _FIXED,
}
_WEIGHT_QUANTIZERS: Mapping[str, Mapping[str, Any] | str] = {
    ADAROUND: {},
    "FixedFakeQuantize": {},
}


def _observers(kind: str) -> Mapping[str, Mapping[str, Any]]:
    mean = {"activation.ranges.running_mean": None} if kind == "activation" else {}
    return {
        name: {f"{kind}.ranges.{key}": value for key, value in ranges.items()} | mean
        for name, ranges in _RANGES.items()
    }


def _channel_axis(value: Any) -> Mapping[str, Any]:
    if value not in (0, -1):
        raise RecipeError(f"expected 0 (a range per output channel) or -1, got {quoted(value)}")
    return {"placement.per_channel_weights": value == 0}


QDROP_KEYS: Mapping[str, Reader] = {
    **COMMON_KEYS,
    "quant.w_qconfig.observer": named(_observers("weight")),
    "quant.a_qconfig.observer": named(_observers("activation")),
    "quant.w_qconfig.bit": to("weight.bits"),
    "quant.a_qconfig.bit": to("activation.bits"),
    "quant.w_qconfig.symmetric": to("weight.symmetric"),
    "quant.a_qconfig.symmetric": to("activation.symmetric"),
    "quant.w_qconfig.ch_axis": _channel_axis,
    "quant.a_qconfig.ch_axis": only(-1, "activations have one range per tensor"),
    "quant.calibrate": positive("images"),
    f"{_TUNING}.batch_size": to("reconstruct.batch_size"),
    f"{_TUNING}.scale_lr": to("reconstruct.activation_rate"),
    f"{_TUNING}.warm_up": to("reconstruct.warm_up"),
    f"{_TUNING}.weight": to("reconstruct.penalty"),
    f"{_TUNING}.iters": to("reconstruct.steps"),
    f"{_TUNING}.b_range": to("reconstruct.beta"),
    f"{_TUNING}.round_mode": only(
        "learned_hard_sigmoid", "rounding is learned through AdaRound's rectified sigmoid"
    ),
    # Despite its name the probability of keeping a quantized value.
    f"{_TUNING}.drop_prob": to("reconstruct.keep_quantized_probability"),
    "quant.w_qconfig.quantizer": named(_WEIGHT_QUANTIZERS),
    "quant.a_qconfig.quantizer": named(_ACTIVATION_QUANTIZERS),
    _TUNING: no_tuning,
}
"""In the order of reading: a later key overrides an earlier one."""

QDROP_IGNORED: Mapping[str, str] = {
    **COMMON_IGNORED,
    f"{_TUNING}.keep_gpu": "the option --memory limits what cached activations take",
    "data.batch_size": "in QDrop it only reads images; quant.recon.batch_size is that of a step",
}


def absent_in_qdrop(given: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return what QDrop takes where a file of these keys says nothing, and what it cannot do without."""
    tuned = any(key.startswith(f"{_TUNING}.") for key in given)
    needed = [f"quant.{kind}_qconfig.{key}" for kind in "wa" for key in _PARTS]
    needed.append("quant.calibrate")
    if tuned:
        needed += [key for key in QDROP_KEYS if key.startswith(f"{_TUNING}.")]
    missing = tuple(key for key in needed if key not in given)
    return ({} if tuned or _TUNING in given else {_TUNING: None}), missing
