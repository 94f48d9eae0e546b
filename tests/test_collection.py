"""Python's garbage collector is left as it was found."""

import gc

import pytest

from mrecg.collection import collection_paused


@collection_paused()
def fail() -> None:
    assert not gc.isenabled()
    raise KeyError


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_rests_and_is_left_as_it_was(on: bool) -> None:
    was_on = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        with pytest.raises(KeyError):
            fail()
        assert gc.isenabled() == on
    finally:
        (gc.enable if was_on else gc.disable)()
