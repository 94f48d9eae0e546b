"""Compare what two programs return: numbers by their difference, classes, integers and booleans by agreement."""

import math

import torch
from torch import Tensor

__all__ = ["OutputComparison"]


class OutputComparison:
    """Collects how far one output of a program is from another's, over batches.

    Args:
        class_axis: where the output has a logit for each class; `None` where it has none.

    Attributes:
        difference: the largest, of floats.
        largest: the largest magnitude of the wanted values, infinite ones apart.
        count: how many values were compared.
    """

    def __init__(self, class_axis: int | None = None) -> None:
        self.difference = self.largest = 0.0
        self._axis = class_axis
        self._power = self._error = 0.0
        self._equal = self._compared = 0
        self.count = 0

    def add(self, wanted: Tensor, got: Tensor) -> None:
        """Take a batch into account.

        Raises:
            ValueError: the shapes differ.
        """
        if wanted.shape != got.shape:
            raise ValueError(f"{tuple(got.shape)} values in place of {tuple(wanted.shape)}")
        self.count += wanted.numel()
        if not wanted.is_floating_point():
            self._count_equal(wanted == got)
            return
        wanted, got = wanted.double(), got.double()
        same = (wanted == got) | (
            wanted.isnan() & got.isnan()
        )  # the difference of infinite values is none
        errors = torch.where(same, 0.0, wanted - got)
        finite = torch.where(wanted.isfinite(), wanted, 0.0)
        self._error += float(errors.square().sum())
        self._power += float(finite.square().sum())
        # torch's maximum keeps what is no number; Python's loses it.
        differences = torch.cat([errors.abs().flatten(), errors.new_tensor([self.difference])])
        self.difference = float(differences.amax())
        self.largest = float(
            torch.cat([finite.abs().flatten(), finite.new_tensor([self.largest])]).amax()
        )
        if self._axis is not None:
            self._count_equal(wanted.argmax(self._axis) == got.argmax(self._axis))

    @property
    def relative_error(self) -> float:
        """Return ‖wanted − got‖ / ‖wanted‖."""
        return math.sqrt(self._error / self._power) if self._power else float(self._error > 0)

    @property
    def snr(self) -> float:
        """Return the ratio of signal and noise in decibels; infinite where nothing differs."""
        if not self._error:
            return math.inf
        return 10 * math.log10(self._power / self._error) if self._power else -math.inf

    @property
    def agreement(self) -> float | None:
        """Return in how many percent of the positions class, integer or boolean is the same; `None` for other floats."""
        return 100 * self._equal / self._compared if self._compared else None

    def _count_equal(self, equal: Tensor) -> None:
        self._equal += int(equal.sum())
        self._compared += equal.numel()
