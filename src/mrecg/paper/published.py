"""The papers' published figures: ImageNet top-1 in percent, settings, joint blocks and names of checkpoints.

The paper is MRECG (Ma et al., "Solving Oscillation Problem in Post-Training Quantization Through a Theoretical
Perspective", CVPR 2023); the authors' README extends its tables.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mrecg.errors import ModelError, PlanError
from mrecg.planning.joint_plan import joined_by_scheme

__all__ = [
    "PAPER_NETWORKS",
    "PaperSettings",
    "find_checkpoint",
    "published_float_top1",
    "published_joins",
    "published_top1",
]


class PaperSettings(NamedTuple):
    """Hold the paper's settings for one network.

    Attributes:
        scheme: units per group in the authors' configuration file, in the order of the network.
        files: names of the published checkpoint, as shell patterns.
        batch_size, batches: of the calibration images.
        penalty: λ, the weight of the rounding regularizer.
        float_top1: of the published checkpoint (row "Full Prec." of the authors' table), in percent.
        ends_hold_two: whether their first unit takes the first block, too, and their last the last convolution.
    """

    scheme: tuple[int, ...]
    files: tuple[str, ...]
    float_top1: float
    batch_size: int = 256
    batches: int = 16
    penalty: float = 0.01
    ends_hold_two: bool = False

    @property
    def without_joins(self) -> dict[str, Any]:
        """Return the settings under which the groups are the units of the authors' code; nothing where ours are the same."""
        if not self.ends_hold_two:
            return {}
        return {"plan.join": "scheme", "plan.scheme": [1] * sum(self.scheme)}

    @property
    def images(self) -> int:
        """Return how many images the paper calibrates on."""
        return self.batch_size * self.batches


_MOBILENETV2_SCHEME = (1, 1, 2, 1, 2, 1, 3, 3, 1, 2, 1)


def _mobilenetv2(float_top1: float, *files: str) -> PaperSettings:
    return PaperSettings(_MOBILENETV2_SCHEME, files, float_top1, penalty=0.1, ends_hold_two=True)


PAPER_NETWORKS: Mapping[str, PaperSettings] = {
    "resnet18": PaperSettings((1, 1, 2, 2, 1, 1, 1, 1), ("resnet18_imagenet.*",), 71.01),
    "resnet50": PaperSettings(
        (1, 1, 1, 2, 1, 1, 3, 1, 1, 1, 2, 1, 1, 1), ("resnet50_imagenet.*",), 76.63, batch_size=128
    ),
    "mobilenetv2_100": _mobilenetv2(72.20, "mobilenetv2.pth*", "mobilenetv2_1.0-*"),
    "mobilenetv2_075": _mobilenetv2(69.95, "mobilenetv2_0.75-*", "mobilenetv2_0.75.*"),
    "mobilenetv2_050": _mobilenetv2(64.60, "mobilenetv2_0.5-*", "mobilenetv2_0.5.*"),
    "mobilenetv2_035": _mobilenetv2(60.08, "mobilenetv2_0.35-*", "mobilenetv2_0.35.*"),
    "regnetx_600m": PaperSettings(
        (1, 1, 1, 1, 3, 1, 1, 2, 1, 1, 1, 1, 2, 1), ("regnet_600m*", "regnetx_600m*"), 73.52
    ),
}
"""The networks of the table, in its order.

The MobileNetV2s are those of d-li14/mobilenetv2.pytorch (`mobilenetv2_1.0-0c6065bc.pth` and so on), which publishes 72.19,
69.95, 64.59 and 60.09 % for them; `float_top1` is what the table says.
"""

_MRECG_TABLE = {
    ("brecq-mrecg", "w4a4"): (69.06, 74.84, 68.56, 64.55, 55.26, 50.67, None),
    ("brecq-mrecg", "w2a4"): (65.61, 70.04, 58.49, 52.50, 41.16, 35.46, None),
    ("brecq-mrecg", "w3a3"): (65.64, 70.68, 57.14, 50.21, 35.11, 30.26, None),
    ("brecq-mrecg", "w2a2"): (52.02, 43.72, 13.84, 9.46, 3.43, 3.22, None),
    ("qdrop-mrecg", "w4a4"): (69.46, 75.35, 68.84, 64.39, 55.64, 50.94, 71.22),
    ("qdrop-mrecg", "w2a4"): (66.18, 70.53, 57.85, 53.71, 40.09, 35.85, 65.16),
    ("qdrop-mrecg", "w3a3"): (66.30, 71.92, 58.40, 51.78, 38.43, 32.96, 66.08),
    ("qdrop-mrecg", "w2a2"): (54.46, 56.82, 14.44, 11.40, 4.18, 3.09, 43.67),
}
"""The table of the authors' README; its columns are `PAPER_NETWORKS`."""

_PEERS = {
    ("brecq", "w2a4"): (63.71, 68.55, 52.30, 62.36),
    ("brecq", "w2a2"): (46.89, 40.18, 7.03, None),
    ("qdrop", "w2a4"): (64.38, 70.31, 54.29, 63.07),
    ("qdrop", "w2a2"): (51.69, 55.18, 11.95, 39.13),
}
"""The paper's comparison in the QDrop setting."""
_PEER_NETWORKS = ("resnet18", "resnet50", "mobilenetv2_100", "regnetx_600m")


def published_top1(network: str, bits: str, method: str) -> float | None:
    """Return the published top-1 of a cell in percent, where there is one.

    The MRECG rows of the authors were made with the schemes of their files, so `-scheme` and `-mrecg` are one row.
    """
    method = method.replace("-scheme", "-mrecg")
    for table, columns in ((_MRECG_TABLE, tuple(PAPER_NETWORKS)), (_PEERS, _PEER_NETWORKS)):
        row = table.get((method, bits))
        if row is not None and network in columns:
            return row[columns.index(network)]
    return None


def published_float_top1(network: str) -> float | None:
    """Return the published top-1 of a float network in percent, where there is one."""
    return PAPER_NETWORKS[network].float_top1 if network in PAPER_NETWORKS else None


def published_joins(network: str, units: Sequence[str]) -> frozenset[int] | None:
    """Return the positions whose unit the authors join to the next; `None` where no scheme of theirs fits the units."""
    if network not in PAPER_NETWORKS:
        return None
    try:
        return joined_by_scheme(PAPER_NETWORKS[network].scheme, units)
    except PlanError:
        return None


def find_checkpoint(folder: Path, network: str) -> Path:
    """Find the file in `folder` with a network's weights: under our name, or under that of the published file.

    Raises:
        ModelError: there is none, or more than one.
    """
    patterns = (f"{network}.*", *PAPER_NETWORKS[network].files)
    found = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelError(
            f"The folder {folder} should hold one checkpoint of {network}, called {' or '.join(patterns)}; "
            f"found {names}."
        )
    return found[0]
