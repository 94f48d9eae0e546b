"""Configuration files of the shape of the authors'."""

from pathlib import Path
from typing import Any

import yaml

from mrecg.paper.mqbench import Experiment, read_experiment

SCHEMES = {
    "mobilenet_v2": "[1, 2, (3, 3), 4, (5, 5), 6, (7, 7, 7), (8, 8, 8), 9, (10, 10), 11]",
    "resnet18": "[1, 2, (3, 3), (4, 4), 5, 6, 7, 8]",
    "resnet50": "[1, 2, 3, (4, 4), 5, 6, (7, 7, 7), 8, 9, 10, (11, 11), 12, 13, 14]",
    "regnetx_600m": "[1, 2, 3, 4, (5, 5, 5), 6, 7, (8, 8), 9, 10, 11, 12, (13, 13), 14]",
}
QCONFIG = "extra_prepare_dict.extra_qconfig_dict"
"""Where the authors' files keep what they say of quantizers."""


def settings(model: str = "resnet18", prob: float = 0.5) -> dict[str, Any]:
    """A file of the shape of the authors'."""
    batch = 128 if model == "resnet50" else 256
    return {
        "extra_prepare_dict": {
            "extra_qconfig_dict": {
                "w_observer": "MSEObserver",
                "a_observer": "EMAMSEObserver",
                "w_fakequantize": "AdaRoundFakeQuantize",
                "a_fakequantize": "QDropFakeQuantize",
                "w_qscheme": {
                    "bit": 2,
                    "symmetry": False,
                    "per_channel": True,
                    "pot_scale": False,
                    "p": 2.4,
                },
                "a_qscheme": {
                    "bit": 4,
                    "symmetry": False,
                    "per_channel": False,
                    "pot_scale": False,
                    "p": 2.4,
                },
            }
        },
        "quantize": {
            "quantize_type": "advanced_ptq",
            "cali_batchsize": 16,
            "reconstruction": {
                "pattern": "block",
                "scale_lr": 4.0e-5,
                "warm_up": 0.2,
                "weight": 0.1 if model == "mobilenet_v2" else 0.01,
                "max_count": 20000,
                "b_range": [20, 2],
                "keep_gpu": True,
                "round_mode": "learned_hard_sigmoid",
                "prob": prob,
                "scheme": SCHEMES[model],
            },
        },
        "model": {
            "type": model,
            "kwargs": {"num_classes": 1000},
            "path": f"/models/{model}.pth.tar",
        },
        "data": {
            "path": "/data/imagenet",
            "batch_size": batch,
            "num_workers": 4,
            "pin_memory": True,
            "input_size": 224,
            "test_resize": 256,
        },
        "process": {"seed": 1005},
    }


def qdrop_settings() -> dict[str, Any]:
    """A file of the shape of the QDrop repository's."""
    axes = {"a_qconfig": ("LSQFakeQuantize", 4, -1), "w_qconfig": ("AdaRoundFakeQuantize", 2, 0)}
    quantizers: dict[str, Any] = {
        name: {
            "quantizer": quantizer,
            "observer": "MSEObserver",
            "bit": bits,
            "symmetric": False,
            "ch_axis": axis,
        }
        for name, (quantizer, bits, axis) in axes.items()
    }
    content = settings()
    content["data"]["batch_size"] = 64
    tuning = {
        "batch_size": 32,
        "scale_lr": 4.0e-5,
        "warm_up": 0.2,
        "weight": 0.01,
        "iters": 20000,
        "b_range": [20, 2],
        "keep_gpu": True,
        "round_mode": "learned_hard_sigmoid",
        "drop_prob": 0.5,
    }
    quant = quantizers | {"calibrate": 1024, "recon": tuning}
    return {"quant": quant} | {key: content[key] for key in ("model", "data", "process")}


def read(tmp_path: Path, content: dict[str, Any] | str) -> Experiment:
    """Return what is read from a file with that content."""
    path = tmp_path / "experiment.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return read_experiment(path)


def changed(key: str, value: Any) -> dict[str, Any]:
    """Return a file of the authors' with one value changed."""
    content = settings()
    *parents, last = key.split(".")
    inner = content
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = value
    return content


def leaves(content: dict[str, Any], prefix: str = "") -> set[str]:
    """Return the keys of all values."""
    found: set[str] = set()
    for key, value in content.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found


def without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Remove keys from a file."""
    for key in keys:
        *parents, last = key.split(".")
        inner = content
        for parent in parents:
            inner = inner[parent]
        del inner[last]
    return content
