"""What the page about the detector counts."""

import numpy as np
import pytest

from benchmarks.detector.files import faces_in
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


def test_a_face_is_one_box_of_a_class_of_faces() -> None:
    """Centers and sizes become sides; overlapping boxes of one class are one, and other classes and low scores are none."""
    places = [(10, 10, 4, 4), (10, 10, 4, 5), (30, 30, 4, 4), (50, 50, 4, 4), (10, 10, 4, 4)]
    output = np.zeros((22, 5), np.float32)
    output[:4] = np.transpose(places)
    for place, (kind, score) in enumerate([(1, 0.9), (1, 0.5), (3, 0.9), (1, 0.1), (12, 0.6)]):
        output[4 + kind, place] = score
    assert faces_in(output) == [
        pytest.approx([8, 8, 12, 12, 0.9, 1]),
        pytest.approx([8, 8, 12, 12, 0.6, 12]),
    ]
