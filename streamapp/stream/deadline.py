"""Waiting that ends when it says, whatever the other side does."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_T = TypeVar("_T")


async def within(seconds: float, work: Awaitable[_T]) -> _T:
    """Return what *work* returns, or give it up.

    ``asyncio.wait_for`` waits on until what it has cancelled agrees to end, and clients that lost their broker were
    seen never to. Here it is cancelled and left to itself.

    Raises:
        TimeoutError: it took longer than *seconds*.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        _give_up(task)
        raise
    if not done:
        _give_up(task)
        raise TimeoutError
    return task.result()


def _give_up(task: "asyncio.Future[_T]") -> None:
    task.cancel()
    # Nobody asks any more how it ended; asyncio would complain of an error that nobody has seen.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
