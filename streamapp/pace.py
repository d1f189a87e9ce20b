"""A pace at which a thread works beside one that must not be held up."""

import time
from collections.abc import Iterator
from typing import TypeVar

STRETCH = 0.002
"""Seconds of work between two rests."""
REST = 0.004
"""Seconds of each rest."""
_LOOK = 32
"""Items between two looks at the clock."""

_T = TypeVar("_T")


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


class Paced(list[_T]):
    """A list through which somebody else goes at a pace.

    Args:
        items: Of the list.
        pace: Of the thread.
    """

    def __init__(self, items: list[_T], pace: Pace) -> None:
        super().__init__(items)
        self._pace = pace

    def __iter__(self) -> Iterator[_T]:
        """Yield the items, with rests."""
        for number, item in enumerate(super().__iter__()):
            if number % _LOOK == 0:
                self._pace.step()
            yield item
