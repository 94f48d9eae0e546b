"""Tell logits from other tables of images × numbers, without labels."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mrecg import distributed

__all__ = ["LARGEST_SHARE", "TableFigures"]

LARGEST_SHARE = 0.1
"""Of the variation of a table's rows, how much may be in their mean if they are logits; times the number of columns, so that 1
is that of independent columns."""


class TableFigures:
    """Collects figures of an output's rows, over batches.

    A divergence of predictions does not see the mean of a row. Training for classes leaves that mean as it was, because the
    gradient of a cross-entropy adds up to nothing over the classes: of trained logits it hardly varies from image to image.
    Coordinates, embeddings and the scores of several labels vary each for itself or all together, and a divergence would
    let quantization move them.

    Args:
        columns: of the table, at least two.
    """

    def __init__(self, columns: int) -> None:
        self._rows = self._negative = 0.0
        self._mean = self._square = 0.0
        self._sums = torch.zeros(columns, dtype=torch.float64)
        self._squares = torch.zeros(columns, dtype=torch.float64)

    def add(self, rows: Float[Tensor, "n columns"]) -> None:
        """Take a batch into account."""
        rows = rows.detach().double().cpu()
        means = rows.mean(1)
        self._rows += len(rows)
        self._negative += float((rows < 0).any())
        self._mean += float(means.sum())
        self._square += float(means.square().sum())
        self._sums += rows.sum(0)
        self._squares += rows.square().sum(0)

    def of_all_processes(self) -> "TableFigures":
        """Return the same over the images of all processes."""
        made = TableFigures(len(self._sums))
        numbers = [self._rows, self._negative, self._mean, self._square]
        shared = distributed.total([*numbers, *self._sums.tolist(), *self._squares.tolist()])
        made._rows, made._negative, made._mean, made._square = shared[:4]
        made._sums, made._squares = torch.tensor(shared[4:], dtype=torch.float64).chunk(2)
        return made

    @property
    def share(self) -> float:
        """Return the variance of the rows' means in that of independent columns; 0 where nothing varies."""
        variances = self._squares / self._rows - (self._sums / self._rows).square()
        of_means = self._square / self._rows - (self._mean / self._rows) ** 2
        independent = float(variances.mean()) / len(variances)
        return of_means / independent if independent > 0 else 0.0

    @property
    def kind(self) -> Literal["logits", "values"]:
        """Return what the table is taken for."""
        return "logits" if self._negative and self.share <= LARGEST_SHARE else "values"
