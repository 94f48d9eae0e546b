"""What programs of peers that quantize torch modules share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from reporting import calibration, report  # type: ignore[import-not-found]
from torch import Tensor, nn

__all__ = ["END_BITS", "batches", "float_network", "is_end", "report_module"]

END_BITS = 8
"""Width of the first and of the last layer, as in mrecg's presets."""


def float_network(folder: Path) -> nn.Module:
    """Return `float.pt`, a graph of torch's own modules."""
    network: nn.Module = torch.load(folder / "float.pt", weights_only=False)
    return network.eval()


def batches(folder: Path, at_once: int) -> list[Tensor]:
    """Return the calibration images in batches."""
    return [torch.from_numpy(part) for part in calibration(folder, at_once)]


def is_end(module: nn.Module) -> bool:
    """Return whether a layer is the first (the one that reads gray images) or the last (the only linear one)."""
    gray = isinstance(module, nn.Conv2d) and module.in_channels == 1
    return gray or isinstance(module, nn.Linear)


def report_module(folder: Path, quantize: Callable[[], nn.Module]) -> None:
    """Quantize a module, and report as `reporting.report` does."""

    def opened(module: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
        @torch.no_grad()
        def run(images: np.ndarray) -> np.ndarray:
            logits: np.ndarray = module.eval()(torch.from_numpy(images)).numpy()
            return logits

        return run

    report(folder, quantize, opened)
