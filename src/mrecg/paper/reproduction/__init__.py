"""The paper's table, cell by cell, next to the published figures."""

from mrecg.paper.reproduction.cell_estimates import estimate_cells
from mrecg.paper.reproduction.cell_runs import Budget, CellReport, Outcome, Sources, reproduce
from mrecg.paper.reproduction.table import Row, as_markdown, rows
from mrecg.paper.reproduction.table_axes import TABLE_BITS, TABLE_METHODS, Cell, TableAxes, cells

__all__ = [
    "TABLE_BITS",
    "TABLE_METHODS",
    "Budget",
    "Cell",
    "CellReport",
    "Outcome",
    "Row",
    "Sources",
    "TableAxes",
    "as_markdown",
    "cells",
    "estimate_cells",
    "reproduce",
    "rows",
]
