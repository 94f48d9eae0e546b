"""What the papers publish: ImageNet top-1 in percent, the settings of each network, and their joined units."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mrecg.errors import ModelError, PlanError
from mrecg.planning.joint_plan import joined_by_scheme

__all__ = ["NETWORKS", "PaperSettings", "find_checkpoint", "published_joins", "published_top1"]


class PaperSettings(NamedTuple):
    """How the paper quantizes one network.

    Attributes:
        scheme: units per group in the authors' file, along the chain.
        files: names of the published checkpoint, as shell patterns.
        batch_size, batches: of the calibration images.
        penalty: λ of the rounding penalty.
    """

    scheme: tuple[int, ...]
    files: tuple[str, ...]
    batch_size: int = 256
    batches: int = 16
    penalty: float = 0.01

    @property
    def images(self) -> int:
        """How many images the paper calibrates on."""
        return self.batch_size * self.batches

    def overrides(self) -> dict[str, Any]:
        """As settings of a recipe."""
        return {
            "reconstruct.batch_size": self.batch_size,
            "reconstruct.penalty": self.penalty,
        }


_MOBILENETV2_SCHEME = (1, 1, 2, 1, 2, 1, 3, 3, 1, 2, 1)


def _mobilenetv2(*files: str) -> PaperSettings:
    return PaperSettings(_MOBILENETV2_SCHEME, files, penalty=0.1)


NETWORKS: Mapping[str, PaperSettings] = {
    "resnet18": PaperSettings((1, 1, 2, 2, 1, 1, 1, 1), ("resnet18_imagenet.*",)),
    "resnet50": PaperSettings(
        (1, 1, 1, 2, 1, 1, 3, 1, 1, 1, 2, 1, 1, 1), ("resnet50_imagenet.*",), batch_size=128
    ),
    "mobilenetv2_100": _mobilenetv2("mobilenetv2.pth*"),
    "mobilenetv2_075": _mobilenetv2("mobilenetv2_0.75*"),
    "mobilenetv2_050": _mobilenetv2("mobilenetv2_0.5-*", "mobilenetv2_0.5.*"),
    "mobilenetv2_035": _mobilenetv2("mobilenetv2_0.35*"),
    "regnetx_600m": PaperSettings(
        (1, 1, 1, 1, 3, 1, 1, 2, 1, 1, 1, 1, 2, 1), ("regnet_600m*", "regnetx_600m*")
    ),
}
"""The networks of the table, in its order."""

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
"""The authors' README; its columns are `NETWORKS`."""

_PEERS = {
    ("brecq", "w2a4"): (63.71, 68.55, 52.30, 62.36),
    ("brecq", "w2a2"): (46.89, 40.18, 7.03, None),
    ("qdrop", "w2a4"): (64.38, 70.31, 54.29, 63.07),
    ("qdrop", "w2a2"): (51.69, 55.18, 11.95, 39.13),
}
"""The paper's comparison in the QDrop setting."""
_PEER_NETWORKS = ("resnet18", "resnet50", "mobilenetv2_100", "regnetx_600m")


def published_top1(network: str, bits: str, method: str) -> float | None:
    """What the papers report for a cell; the authors' own schemes are what their MRECG rows were made with."""
    method = method.replace("-scheme", "-mrecg")
    for table, columns in ((_MRECG_TABLE, tuple(NETWORKS)), (_PEERS, _PEER_NETWORKS)):
        row = table.get((method, bits))
        if row is not None and network in columns:
            return row[columns.index(network)]
    return None


def published_joins(network: str, units: Sequence[str]) -> frozenset[int] | None:
    """The positions whose unit the authors join to the next one; `None` where they publish no scheme for these units."""
    if network not in NETWORKS:
        return None
    try:
        return joined_by_scheme(NETWORKS[network].scheme, units)
    except PlanError:
        return None


def find_checkpoint(folder: Path, network: str) -> Path:
    """The file in `folder` with a network's weights: under our name, or under that of the published file.

    Raises:
        ModelError: there is none, or more than one.
    """
    patterns = (f"{network}.*", *NETWORKS[network].files)
    found = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelError(
            f"The folder {folder} should hold one checkpoint of {network}, called {' or '.join(patterns)}; "
            f"found {names}."
        )
    return found[0]
