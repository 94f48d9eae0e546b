"""The paper's table, cell by cell, beside the published numbers."""

from mrecg.reproduction.estimates import estimates
from mrecg.reproduction.grid import BITS, METHODS, Cell, Grid, cells
from mrecg.reproduction.published import NETWORKS, published_joins, published_top1
from mrecg.reproduction.running import Budget, Outcome, Sources, reproduce
from mrecg.reproduction.table import Row, as_markdown, rows

__all__ = [
    "BITS",
    "METHODS",
    "NETWORKS",
    "Budget",
    "Cell",
    "Grid",
    "Outcome",
    "Row",
    "Sources",
    "as_markdown",
    "cells",
    "estimates",
    "published_joins",
    "published_top1",
    "reproduce",
    "rows",
]
