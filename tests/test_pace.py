"""A pace: so much work, then a rest."""

from types import SimpleNamespace

import pytest

from streamapp import pace
from streamapp.pace import REST, STRETCH, Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=0.0, rests=[])

    def sleep(seconds: float) -> None:
        clock.rests.append((clock.now, seconds))
        clock.now += seconds

    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
    return clock


def test_after_a_stretch_of_work_comes_a_rest_and_then_another_stretch(clock: SimpleNamespace) -> None:
    own = Pace()
    for _ in range(100):
        clock.now += STRETCH / 10
        own.step()
    worked = 100 * STRETCH / 10
    assert {seconds for _, seconds in clock.rests} == {REST}
    assert len(clock.rests) == pytest.approx(worked / STRETCH, rel=0.2)
    assert all(
        later - earlier > STRETCH for (earlier, _), (later, _) in zip(clock.rests, clock.rests[1:], strict=False)
    )


def test_who_is_quick_does_not_rest(clock: SimpleNamespace) -> None:
    own = Pace()
    for _ in range(1000):
        own.step()
    assert clock.rests == []
