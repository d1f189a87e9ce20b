"""The load follows the machine's speed, and what was asked for is the sum of it."""

import pytest

from tests.soak.pacing import FOLLOW, Pacing
from tests.soak.speed import KEPT, Speed, work


def test_a_machine_of_half_the_speed_is_asked_for_half_of_it_and_later_for_all_again() -> None:
    seconds = iter([0.01] * 20 + [0.02] * KEPT + [0.01] * KEPT)
    speed, ordered = Speed(probe=lambda: next(seconds)), list[float]()
    for _ in range(20):
        speed.look()
    speed.mark(0)
    pacing = Pacing(1000.0, speed.factor, ordered.append)
    for moment in range(1, KEPT + 1):
        speed.look()
        pacing.step(float(moment))
    assert pacing.rate == pytest.approx(500)
    for moment in range(KEPT + 1, 2 * KEPT + 1):
        speed.look()
        pacing.step(float(moment))
    assert pacing.rate == pytest.approx(1000)
    assert set(map(round, ordered)) == {500, 1000}
    assert len(ordered) == 1 + 2 * KEPT / FOLLOW


def test_what_was_asked_for_is_the_sum_of_the_rates() -> None:
    factors = iter([0.5, 2.0])
    pacing = Pacing(100.0, lambda: next(factors), lambda rate: None)
    pacing.step(FOLLOW)
    pacing.step(FOLLOW + 2)
    pacing.step(2 * FOLLOW)
    pacing.step(2 * FOLLOW + 1)
    assert pacing.due == pytest.approx(FOLLOW * 100 + FOLLOW * 50 + 200)


def test_a_rate_that_was_given_stays() -> None:
    ordered = list[float]()
    pacing = Pacing(100.0, None, ordered.append)
    for moment in range(60):
        pacing.step(float(moment))
    assert (ordered, pacing.rate, pacing.due) == ([100.0], 100.0, 5900.0)


def test_a_speed_that_was_never_marked_changes_nothing() -> None:
    speed = Speed()
    assert speed.factor() == 1.0
    speed.mark(0)
    assert speed.factor() == 1.0
    speed.look()
    speed.mark(1)
    assert speed.factor() == 1.0


def test_the_work_takes_time_of_the_processor() -> None:
    assert work() > 0
