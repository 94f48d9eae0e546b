"""What the page about the detector counts."""

import pytest

from benchmarks.detector.render import matched, overlap


def test_overlap_is_intersection_over_union() -> None:
    assert overlap((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0


def test_a_box_finds_one_face_only_and_the_best_pairs_come_first() -> None:
    wanted = [(0, 0, 10, 10, 0.9), (1, 0, 11, 10, 0.9)]
    assert matched(wanted, [(0, 0, 10, 10, 0.8)]) == [1]
    assert len(matched(wanted, [(1, 0, 11, 10, 0.8), (0, 0, 10, 10, 0.7)])) == 2
    assert matched(wanted, [(0, 0, 100, 100, 1)]) == []
