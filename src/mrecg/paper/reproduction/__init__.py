"""The paper's table, cell by cell, beside the published numbers."""

from mrecg.paper.published import NETWORKS, published_joins, published_top1
from mrecg.paper.reproduction.estimates import estimates
from mrecg.paper.reproduction.grid import BITS, METHODS, Cell, Grid, cells
from mrecg.paper.reproduction.running import Budget, Outcome, Sources, reproduce
from mrecg.paper.reproduction.table import Row, as_markdown, rows

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
