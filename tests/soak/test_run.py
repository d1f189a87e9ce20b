"""The capacity is what monitors have taken, and steps in what they tell do not matter much."""

import pytest

from tests.soak.run import speed, taken


def test_verdicts_that_no_monitor_has_taken_do_not_count() -> None:
    assert taken({"verdicts": 900, "scored": 60, "lag": {"scored": 20}}) == pytest.approx(600)
    assert taken({"verdicts": 0, "scored": 0, "lag": {"scored": 0}}) == 0


@pytest.mark.parametrize("phase", [0.0, 1.0, 2.5, 4.0])
def test_a_speed_is_found_although_it_is_told_in_steps(phase: float) -> None:
    times = [quarter / 4 for quarter in range(160)]
    steps = [(at, 4000.0 * ((at + phase) // 5 * 5)) for at in times]
    assert speed(steps) == pytest.approx(4000, rel=0.1)
    assert speed([(0.0, 0.0), (2.0, 10.0)]) == pytest.approx(5)
