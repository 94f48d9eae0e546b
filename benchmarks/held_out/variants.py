"""What is compared, by name: a method of the presets, and the settings in which a variant differs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = [
    "BUDGETS",
    "CODES",
    "GROUPS",
    "JOINS",
    "LONG",
    "PRECISIONS",
    "STOPS",
    "VARIANTS",
    "Variant",
]


class Variant(NamedTuple):
    """Describe one recipe.

    Attributes:
        about: what it is, for the table.
        method: of a preset's name.
        settings: over the preset.
        steps: of each group, as a multiple of those asked for.
        trial: of `trials.TRIALS`, what is replaced in the stage.
        generated: whether images made from the float network's statistics join the calibration images.
    """

    about: str
    method: str
    settings: Mapping[str, Any]
    steps: float = 1.0
    trial: str | None = None
    generated: bool = False


_GROUPS_ALONE = {"network.steps": 0}
_AS_THE_PAPER = {
    "plan.keep": "all",
    "plan.joined_steps": "per-group",
    "plan.joined_start": "anew",
}


def _joined(about: str, **settings: Any) -> Variant:
    plan = {f"plan.{key}": value for key, value in settings.items()}
    return Variant(about, "qdrop-mrecg", {"plan.count": "auto", **_GROUPS_ALONE, **plan})


JOINS = {
    "blocks": Variant("blocks", "qdrop", _GROUPS_ALONE),
    "blocks-175": Variant("blocks, 1.75 times the steps", "qdrop", _GROUPS_ALONE, 1.75),
    "gain": _joined("every neighbor is tried: measured gain", count="all"),
    "loss-log": _joined("loss, log-ratio"),
    "loss": _joined("loss, squared difference", difference="square"),
    "capacity-log": _joined("capacity, log-ratio", join="capacity"),
    "capacity": _joined("capacity, squared difference", join="capacity", difference="square"),
    "stage": _joined("where the shape changes", join="stage"),
    "untried": _joined("measured gain, but every join is kept", count="all", keep="all"),
    "anew": _joined(
        "measured gain, but joined groups start anew", count="all", joined_start="anew"
    ),
    "paper": _joined(
        "as the paper: loss, anew, one budget per group", difference="square"
    )._replace(
        settings={
            **_GROUPS_ALONE,
            **_AS_THE_PAPER,
            "plan.count": "auto",
            "plan.difference": "square",
        }
    ),
}
"""Which neighbors are joined, and what a joined group gets; nothing for the network as a whole."""


def _learned(about: str, method: str = "qdrop", **settings: Any) -> Variant:
    stage = {f"network.{key}": value for key, value in settings.items()}
    return Variant(about, method, {"network.learn": "codes", "network.steps": 500, **stage})


CODES = {
    "scales": _learned("scales alone, a fifth of the steps", learn="scales", steps="auto"),
    "codes": _learned("codes"),
    "codes-mrecg": _learned("codes, after joined groups", "qdrop-mrecg"),
    "no-views": _learned("codes, images as they are", augment=[]),
    "mirror": _learned("codes, mirrored instead of patches", augment=["mirror"]),
    "mirror-cutmix": _learned("codes, mirrored and patches", augment=["mirror", "cutmix"]),
    "mixup": _learned("codes, blended instead of patches", augment=["mixup"]),
    "no-features": _learned("codes, outputs alone", feature_weight=0.0),
    "temperature-1": _learned("codes, temperature 1", temperature=1.0),
    "rate-40": _learned("codes, twice the rate", code_rate=0.04),
    "codes-1500": _learned("codes, three times the steps", steps=1500),
    "averaged": _learned("codes, averaged latents")._replace(trial="averaged"),
    "pulled": _learned("codes, latents pulled towards their codes")._replace(trial="pulled"),
    "dropped": _learned("codes, a tenth of the activations in float")._replace(trial="dropped"),
    "generated": _learned("codes, 256 images from batch norms besides")._replace(generated=True),
}
"""What the network as a whole learns, and from which views of the images."""
LONG = {
    "mrecg-3000": _learned("the whole method, 3,000 steps", "qdrop-mrecg", steps=3000),
    "mrecg-8000": _learned("the whole method, 8,000 steps", "qdrop-mrecg", steps=8000),
    "mrecg-8000-rate-40": _learned(
        "the whole method, 8,000 steps, twice the rate", "qdrop-mrecg", steps=8000, code_rate=0.04
    ),
}
"""Many steps of the network as a whole, after joined groups."""
_STAGE = {"network.steps": 125}
STOPS = {
    "decided": Variant("when roundings are decided", "qdrop", _STAGE),
    "held-out-stop": Variant(
        "when the error on images set aside stops falling", "qdrop", _STAGE, trial="held-out-stop"
    ),
    "half-steps": Variant("after half of the steps", "qdrop", _STAGE, 0.5),
}
"""When a group's steps end before the last one; with 125 steps of the network as a whole behind them."""
BUDGETS = {"whole": Variant("the whole method", "qdrop-mrecg", {})}
"""Everything as it is by default, with the steps that are asked for."""
PRECISIONS = {
    name: Variant(name, "qdrop-mrecg", {"reconstruct.precision": name})
    for name in ("float32", "bfloat16")
}
"""In which precision steps multiply, of the groups and of the network as a whole."""
GROUPS = {
    "joins": JOINS,
    "network": CODES,
    "long": LONG,
    "stops": STOPS,
    "budgets": BUDGETS,
    "precisions": PRECISIONS,
}
VARIANTS = JOINS | CODES | LONG | STOPS | BUDGETS | PRECISIONS
