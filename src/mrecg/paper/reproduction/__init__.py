"""The paper's table, cell by cell, next to the published figures."""

from mrecg.paper.reproduction.cell_estimates import Expectation, estimate_cells
from mrecg.paper.reproduction.cell_runs import (
    Budget,
    CellReport,
    Outcome,
    Sources,
    reproduce,
    run_alone,
)
from mrecg.paper.reproduction.table import (
    Result,
    Row,
    as_markdown,
    budget_lines,
    columns,
    rows,
    texts,
)
from mrecg.paper.reproduction.table_axes import TABLE_BITS, TABLE_METHODS, Cell, TableAxes, cells

__all__ = [
    "TABLE_BITS",
    "TABLE_METHODS",
    "Budget",
    "Cell",
    "CellReport",
    "Expectation",
    "Outcome",
    "Result",
    "Row",
    "Sources",
    "TableAxes",
    "as_markdown",
    "budget_lines",
    "cells",
    "columns",
    "estimate_cells",
    "reproduce",
    "rows",
    "run_alone",
    "texts",
]
