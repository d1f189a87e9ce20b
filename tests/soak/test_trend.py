"""The slope test: it sees a leak behind noise, steps and restarts, and none where there is none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.soak.trend import trend

MINUTES = 50
SECONDS = np.arange(60.0 * MINUTES)
LEAK = 20 / 3600
"""20 a hour, in units a second."""


def steps(draw: np.random.Generator, size: int, correlation: float) -> np.ndarray:
    """Return noise of deviation 1 that forgets slowly."""
    shocks = draw.normal(size=size) * np.sqrt(1 - correlation**2)
    values = np.empty(size)
    values[0] = draw.normal()
    for place in range(1, size):
        values[place] = correlation * values[place - 1] + shocks[place]
    return values


@pytest.mark.parametrize("seed", range(5))
def test_a_leak_behind_correlated_noise_is_seen(seed: int) -> None:
    noise = steps(np.random.default_rng(seed), len(SECONDS), 0.97)
    found = trend(SECONDS, 300 + noise + LEAK * SECONDS)
    assert found.grows
    assert found.low < LEAK < found.high


def test_a_flat_series_with_correlated_noise_rarely_seems_to_grow() -> None:
    seeds = range(60)
    grown = [trend(SECONDS, steps(np.random.default_rng(seed), len(SECONDS), 0.97)).grows for seed in seeds]
    assert sum(grown) <= 3


def test_peaks_at_restarts_are_no_growth() -> None:
    peaks = np.where((SECONDS % 300) < 60, 100.0, 0.0) * (1 + SECONDS / SECONDS[-1])
    assert not trend(SECONDS, 300 + peaks + np.random.default_rng(1).normal(size=len(SECONDS))).grows


def test_memory_that_grows_in_steps_grows() -> None:
    assert trend(SECONDS, 300 + np.floor(SECONDS / 400)).grows


def test_a_constant_series_has_the_slope_0_and_an_interval_of_no_width() -> None:
    found = trend(SECONDS, np.full(len(SECONDS), 7.0))
    assert (found.slope, found.low, found.high) == (0.0, 0.0, 0.0)


def test_a_random_walk_is_not_taken_for_noise_around_a_line() -> None:
    walk = np.cumsum(np.random.default_rng(4).normal(size=len(SECONDS)))
    assert trend(SECONDS, walk).inflation > 5


def test_too_few_values_are_refused() -> None:
    with pytest.raises(ValueError, match="found them in 4 of 24"):
        trend([0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0])


@settings(max_examples=25)
@given(st.floats(-100, 100), st.floats(0.5, 4))
def test_a_series_that_is_shifted_scaled_and_turned_has_that_slope_and_interval(shift: float, scale: float) -> None:
    at = SECONDS[::20]
    values = np.random.default_rng(2).normal(size=len(at))
    before, after = trend(at, values), trend(at, shift - scale * values)
    assert after.slope == pytest.approx(-scale * before.slope)
    assert after.low == pytest.approx(-scale * before.high)
    assert after.high == pytest.approx(-scale * before.low)
