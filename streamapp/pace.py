"""A pace at which a thread works beside one that must not be held up."""

import time

STRETCH = 0.002
"""Seconds of work between two rests."""
REST = 0.004
"""Seconds of each rest."""


class Pace:
    """Rests after each stretch of work.

    Threads of one interpreter share their time evenly, so that each one at work lengthens what the others do. One that
    rests for two thirds of its time takes a third at most.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()

    def step(self) -> None:
        """Rest, if it is time to."""
        if time.monotonic() - self._began > STRETCH:
            time.sleep(REST)
            self._began = time.monotonic()
