"""Defaults of MQBench: the values that it takes where its files say nothing."""

from collections.abc import Mapping
from typing import Any

from mrecg.config.targets import ACADEMIC
from mrecg.paper.mqbench.keys import LOGARITHMIC, QCONFIG, TUNING

__all__ = ["absent_keys"]

_SCHEME = {
    "bit": 8,
    "symmetry": True,
    "per_channel": False,
    "pot_scale": False,
    "symmetric_range": False,
}
"""Defaults of `QuantizeScheme`."""
_P = 2.0
"""Default of `MSEObserver` and `EMAMSEObserver`."""
_BATCH_SIZE = 64
"""Default of `load_data`."""


def absent_keys(given: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return what MQBench takes where a file of these keys says nothing, and what it cannot do without."""
    backend = str(given.get("quantize.backend", ACADEMIC)).lower()
    values: dict[str, Any] = {"data.batch_size": _BATCH_SIZE}
    missing: list[str] = []
    for kind in ("w", "a"):
        scheme = f"{QCONFIG}.{kind}_qscheme"
        if any(key.startswith(f"{scheme}.") for key in given):
            values |= {f"{scheme}.{key}": value for key, value in _SCHEME.items()}
        elif backend == ACADEMIC:
            missing.append(scheme)
        searches = str(given.get(f"{QCONFIG}.{kind}_observer")).endswith("MSEObserver")
        if searches and f"{QCONFIG}.{kind}_observer_extra_args.p" not in given:
            values[f"{scheme}.p"] = _P
    # The backend Academic has no default quantizers and observers.
    parts = [f"{QCONFIG}.{kind}_{part}" for kind in "wa" for part in ("fakequantize", "observer")]
    if backend == ACADEMIC:
        missing += [part for part in parts if part not in given]
    else:
        values |= _backend_parts(backend)
    if not any(key.startswith(f"{TUNING}.") for key in given):
        values[TUNING] = None
    else:
        values[f"{TUNING}.scale_lr"] = 0.0
    return {key: value for key, value in values.items() if key not in given}, tuple(missing)


def _backend_parts(backend: str) -> dict[str, str]:
    """Return the quantizers and observers of a target."""
    quantizer = {"vitis": "TqtFakeQuantize", "nnie": LOGARITHMIC}.get(
        backend, "LearnableFakeQuantize"
    )
    weights, activations = {
        "vitis": ("MinMaxFloorObserver", "ModeMinMaxFloorObserver"),
        "onnx_qnn": ("MinMaxObserver", "MinMaxObserver"),
        "pplcuda": ("MinMaxObserver", "MinMaxObserver"),
    }.get(backend, ("MinMaxObserver", "EMAMinMaxObserver"))
    return {
        f"{QCONFIG}.w_fakequantize": quantizer,
        f"{QCONFIG}.a_fakequantize": quantizer,
        f"{QCONFIG}.w_observer": weights,
        f"{QCONFIG}.a_observer": activations,
    }
