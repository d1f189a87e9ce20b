"""Work on the event loop that lets what else happens there go on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from time import monotonic
from typing import TypeVar

BREATH = 0.005
"""Seconds of work after which the loop's other work goes on."""

_T = TypeVar("_T")


async def breathing(items: Iterator[_T], *, rest: float = 0.0) -> AsyncIterator[_T]:
    """Yield items that are made one by one, and let the loop come round wherever they have taken a while.

    What counts is the time to make an item and what the caller does with it.

    Args:
        items: Made one by one.
        rest: Seconds for which the loop is left to others each time; 0 for a single turn, which is not enough for those
            whom a timer or a socket wakes: they are told of it in one turn, and run in the next.
    """
    began = monotonic()
    for item in items:
        yield item
        if monotonic() - began > BREATH:
            await asyncio.sleep(rest)
            began = monotonic()
