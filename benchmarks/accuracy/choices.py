"""What decides accuracy and steps, and the settings that do without it."""

from typing import Any

from mrecg.config.presets import SCHEDULES

__all__ = ["CHOICES"]

_KEPT = (
    "reconstruct.steps",
    "reconstruct.batch_size",
    "reconstruct.penalty",
    "reconstruct.penalty_at",
)
CHOICES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "early-stop": {"reconstruct.early_stop": False},
    "network-stage": {"network.steps": 0},
    "learned-ranges": {"reconstruct.weight_scale_rate": 0.0},
    "budget-rate": {"reconstruct.rounding_rate": 1e-3},
    "reshuffling": {"reconstruct.batches": "fixed"},
    "float32": {"reconstruct.precision": "bfloat16"},
    "network-penalty": {"reconstruct.penalty": 0.01},
    "everything": {
        key: value
        for key, value in SCHEDULES["paper"].items()
        if key.partition(".")[0] != "plan" and key not in _KEPT
    },
}
"""By name; "network-penalty" gives MobileNetV2 the λ of the others instead of 0.1.

Without everything, a run has the rates, batches and ranges of the paper's code, on our units; `--schedule paper` has its
units, too.
"""
