"""The capacity is of what monitors have taken, training included."""

import pytest

from tests.soak.run import answered, taken


def test_verdicts_that_no_monitor_has_taken_do_not_count() -> None:
    assert taken({"verdicts": 900, "scored": 60, "lag": {"scored": 20}}) == pytest.approx(600)
    assert taken({"verdicts": 0, "scored": 0, "lag": {"scored": 0}}) == 0


def test_training_is_part_of_the_work() -> None:
    assert answered({"counted": {"retrain": 10, "model-updates": 9}})
    assert not answered({"counted": {"retrain": 10, "model-updates": 8}})
