"""What a transaction carries follows how fast the way to the broker is."""

from hypothesis import given
from hypothesis import strategies as st

from streamapp.stream.portion import FIRST, LEAST, LONG, MOST, Portion

TIMEOUT = 6.0
LATENCY = st.floats(0.0, 0.2)
SPEED = st.floats(2 * LEAST / TIMEOUT, 1e9)


def sent_full(portion: Portion, latency: float, speed: float, times: int) -> list[float]:
    """Return how long transactions take that carry all they may."""
    took = []
    for _ in range(times):
        took.append(latency + portion.bytes / speed)
        portion.heard(portion.bytes, took[-1])
    return took


@given(LATENCY, SPEED)
def test_it_settles_at_what_is_sent_within_half_of_the_timeout_and_is_not_needlessly_small(
    latency: float, speed: float
) -> None:
    portion = Portion(TIMEOUT)
    *_, last, final = sent_full(portion, latency, speed, 20)
    assert last == final, "it does not waver"
    assert final <= LONG * TIMEOUT or portion.bytes == LEAST
    assert 2 * final >= LONG * TIMEOUT or portion.bytes == MOST


@given(LATENCY, SPEED, SPEED)
def test_a_way_that_becomes_slower_or_faster_is_followed(latency: float, before: float, after: float) -> None:
    portion, fresh = Portion(TIMEOUT), Portion(TIMEOUT)
    sent_full(portion, latency, before, 20)
    took = sent_full(portion, latency, after, 20)
    assert took[-1] <= LONG * TIMEOUT or portion.bytes == LEAST
    expected = sent_full(fresh, latency, after, 20)
    assert 0.5 <= took[-1] / expected[-1] <= 2


def test_small_ones_say_nothing_of_how_fast_large_ones_go() -> None:
    portion = Portion(TIMEOUT)
    for _ in range(100):
        portion.heard(1000, 0.01)
    assert portion.bytes == FIRST


def test_those_that_are_far_from_full_say_enough_where_they_are_fast() -> None:
    portion = Portion(TIMEOUT)
    for _ in range(10):
        portion.heard(portion.bytes // 4, 0.1)
    assert portion.bytes == MOST


def test_it_grows_no_further_than_what_memory_has_room_for() -> None:
    portion = Portion(TIMEOUT)
    sent_full(portion, 0.0, 1e12, 20)
    assert portion.bytes == MOST
