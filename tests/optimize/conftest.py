"""A prepared network that tests share."""

import pytest

import mrecg
import toys
from mrecg.preparation.prepared_graph import PreparedGraph, prepare_graph
from quick import GROUPS_ALONE


@pytest.fixture(scope="module")
def residual() -> PreparedGraph:
    """The toy of this name under the QDrop preset; nothing of it changes, so that every test may use it."""
    recipe = mrecg.preset("w2a2-qdrop", GROUPS_ALONE)
    return prepare_graph(toys.make("residual"), toys.images(2), recipe, None)
