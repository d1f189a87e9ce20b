"""The load that is asked for: a share of what the machine can do at the time."""

from collections.abc import Callable

FOLLOW = 5.0
"""Seconds after which the load is fitted anew."""


class Pacing:
    """Says how many predictions a second there are to be.

    Args:
        rate: Predictions a second, at the usual speed.
        factor: Returns the speed of the moment, in times of that; None: the load stays as it is.
        order: Told of each new rate.
    """

    def __init__(self, rate: float, factor: Callable[[], float] | None, order: Callable[[float], None]) -> None:
        self._usual = rate
        self._factor = factor
        self._order = order
        self._fitted = self._at = 0.0
        self.rate = rate
        """Just now."""
        self.due = 0.0
        """Predictions that have been asked for."""
        order(rate)

    def step(self, at: float) -> None:
        """Go on to so many seconds since the beginning."""
        self.due += (at - self._at) * self.rate
        self._at = at
        if self._factor is not None and at - self._fitted >= FOLLOW:
            self._fitted = at
            self.rate = self._usual * self._factor()
            self._order(self.rate)
