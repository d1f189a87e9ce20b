"""An event loop in a thread of its own: what a broker waits for must not wait until a batch has been applied."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from functools import cache, partial
from typing import Any, TypeVar

from streamapp.config import ProcessConfig
from streamapp.stream.deadline import within
from streamapp.stream.producer import (
    COMMIT_DEADLINE,
    START_DEADLINE,
    STOP_DEADLINE,
    Acknowledged,
    CommitFailed,
    Producer,
    Record,
    producer,
)

PRODUCERS = "producers"
"""Name of their thread."""

MARGIN = 5.0
"""Seconds beyond the deadline of what is done there."""

_T = TypeVar("_T")


class LoopThread:
    """A thread that runs an event loop for as long as the process lives.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name=name, daemon=True).start()

    async def run(self, work: Coroutine[Any, Any, _T], deadline: float) -> _T:
        """Return what *work* returns there; where nobody waits for it any more, it is cancelled there.

        Raises:
            CommitFailed: it has not ended within *deadline* seconds: what is done there has deadlines of its own, so
                nothing is done there any more.
        """
        there = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
        try:
            return await within(deadline + MARGIN, there)
        except TimeoutError:
            raise CommitFailed(f"the loop of the {self._name} does not answer") from None


class ProducerApart:
    """A producer whose connections, deadlines and timers are on another loop.

    Sending and committing takes some thirty turns of a loop. Between two of the stream's there may be a batch of each
    task, and a transaction that has begun must end within its timeout.

    Args:
        home: Whose loop that is.
        make: Makes the producer, there.
    """

    def __init__(self, home: LoopThread, make: Callable[[], Producer]) -> None:
        self._home = home
        self._make = make
        self._producer: Producer | None = None

    async def start(self) -> None:
        """Take the task over."""
        await self._home.run(self._start(), START_DEADLINE)

    async def _start(self) -> None:
        self._producer = self._make()
        await self._producer.start()

    async def commit(self, records: Sequence[Record]) -> Acknowledged:
        """Send all records and commit them."""
        assert self._producer is not None
        return await self._home.run(self._producer.commit(records), COMMIT_DEADLINE)

    async def stop(self) -> None:
        """Close the connections, where there are any."""
        if self._producer is not None:
            await self._home.run(self._producer.stop(), STOP_DEADLINE)


@cache
def _producers() -> LoopThread:
    return LoopThread(PRODUCERS)


def producer_apart(
    config: ProcessConfig,
    role: str,
    partition: int,
    *,
    make: Callable[[ProcessConfig, str, int], Producer] = producer,
) -> Producer:
    """Return the producer of one task, on the loop that the process has for all of them."""
    return ProducerApart(_producers(), partial(make, config, role, partition))
