"""A record is confirmed by equal counts on the same machine, and by near ones on another."""

import pytest

from mrecg.evaluation import Repetition
from mrecg.records.evaluation import Evaluation

ANOTHER = ("torch 2.11.0, now 2.13.0",)


@pytest.mark.parametrize(
    ("measured", "differences", "holds"),
    [
        (Evaluation(1000, 900, 990), (), True),
        (Evaluation(1000, 899, 990), (), False),
        (Evaluation(1000, 900, 991), (), False),
        (Evaluation(1000, 899, 991), ANOTHER, True),
        (Evaluation(1000, 898, 990), ANOTHER, False),
        (Evaluation(999, 900, 990), ANOTHER, False),
    ],
)
def test_what_confirms_a_record(
    measured: Evaluation, differences: tuple[str, ...], holds: bool
) -> None:
    assert Repetition(Evaluation(1000, 900, 990), measured, differences).holds == holds


def test_other_images_confirm_nothing_where_nothing_else_differs() -> None:
    one = Evaluation(1000, 900, 990)
    assert not Repetition(one, one, (), same_images=False).holds
    assert Repetition(one, one, (), same_images=True).holds
    assert Repetition(one, one, ANOTHER, same_images=False).holds
