"""Losses along the chain: a rise that falls again is an oscillation."""

from mrecg.records.oscillation import Oscillation


def test_oscillation_counts_rises_that_fall_again() -> None:
    names = list("abcdef")
    steady = Oscillation.along(names, [1, 2, 3, 4, 5, 6])
    assert steady.jumps == ()
    assert (steady.largest_loss, steady.largest_unit) == (6, "f")
    falling = Oscillation.along(names, [6, 5, 4, 3, 2, 1])
    assert falling.jumps == ()
    wild = Oscillation.along(names, [1, 4, 2, 3, 7, 5])
    assert [(jump.unit, jump.size) for jump in wild.jumps] == [("b", 3), ("e", 5)]
    assert wild.total == 8
