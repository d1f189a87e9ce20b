"""Read a stretch of a partition from outside the consumer group: checkpoints, re-reads, what a learner asks for."""

import asyncio
import sys
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, TypeVar

import aiokafka
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import OffsetOutOfRangeError

from streamapp.config import ProcessConfig
from streamapp.errors import CheckpointError, StreamappError
from streamapp.stream.identity import ids_of
from streamapp.stream.records import Records
from streamapp.stream.unpack import unpack

POLL = 0.2
"""Seconds to wait for records at a time."""
READ_DEADLINE = 60.0
"""Seconds without any progress after which a read fails."""


_offset = attrgetter("offset")
_Many = TypeVar("_Many", list[Any], Records)


class NoAnswer(StreamappError):
    """The broker does not hand out what it must have. Try again later."""


class Reader:
    """A consumer without a group, for one read at a time.

    Args:
        config: How to reach the broker.
    """

    def __init__(self, config: ProcessConfig) -> None:
        self._consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=config.broker,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed" if config.transactions else "read_uncommitted",
            fetch_max_wait_ms=100,
            max_partition_fetch_bytes=1 << 22,
            **config.security(),
        )
        self._config = config
        self._committed = config.transactions

    async def __aenter__(self) -> "Reader":
        """Connect."""
        try:
            await self._consumer.start()
        except BaseException:
            await self._consumer.stop()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect."""
        await self._consumer.stop()

    async def beginning(self, topic: str, partition: int) -> int:
        """Return the oldest offset that the log still holds."""
        tp = TopicPartition(topic, partition)
        return int((await self._consumer.beginning_offsets([tp]))[tp])

    async def end(self, topic: str, partition: int) -> int:
        """Return the offset that the next record will have."""
        tp = TopicPartition(topic, partition)
        return int((await self._consumer.end_offsets([tp]))[tp])

    async def topic_ids(self, topics: Iterable[str]) -> Mapping[str, str]:
        """Return the id of each topic that the broker tells one of."""
        security = self._config.security()
        return await asyncio.to_thread(ids_of, self._config.broker, tuple(topics), **security)

    async def record(self, topic: str, partition: int, offset: int) -> Any:
        """Return one record, None if there is none at that offset.

        Raises:
            CheckpointError: *offset* is no longer, or not yet, in the log.
            NoAnswer: the broker hands out nothing.
        """
        # A broker hands out one whole batch at least, and here no more than that.
        fetcher = self._consumer._fetcher
        usual, fetcher._max_partition_fetch_bytes = fetcher._max_partition_fetch_bytes, 1
        try:
            async for records, _ in self.read(topic, partition, offset, offset + 1):
                return records[0] if records and records[0].offset == offset else None
        finally:
            fetcher._max_partition_fetch_bytes = usual

    async def read(
        self, topic: str, partition: int, start: int | None = None, end: int | None = None
    ) -> AsyncIterator[tuple[list[Any], int]]:
        """Yield lists of records and the position behind each, from *start* to *end*.

        Args:
            topic: Full name.
            partition: Its number.
            start: First offset; None: the oldest there is.
            end: First offset that is no longer wanted; None: up to the last stable offset at the time it is reached.

        Raises:
            CheckpointError: *start* is no longer, or not yet, in the log; or the log ends before *end*.
            NoAnswer: the broker hands out nothing.
        """
        if start is None:
            start = await self.beginning(topic, partition)
        async for part in self._stretch(self._objects, TopicPartition(topic, partition), start, end, follow=False):
            yield part

    async def columns(
        self, topic: str, partition: int, start: int, end: int | None = None, *, follow: bool = False
    ) -> AsyncIterator[tuple[Records, int]]:
        """Yield the same as :meth:`read` as columns, in a fraction of its time.

        Args:
            topic: Full name.
            partition: Its number.
            start: First offset.
            end: As for :meth:`read`.
            follow: Never end: wait for what comes.

        Raises:
            CheckpointError: as :meth:`read`.
            NoAnswer: likewise.
        """
        async for part in self._stretch(self._columns, TopicPartition(topic, partition), start, end, follow=follow):
            yield part

    async def _objects(self, tp: TopicPartition) -> list[Any]:
        got = await self._consumer.getmany(tp, timeout_ms=int(1000 * POLL))
        return list(got.get(tp, []))

    async def _columns(self, tp: TopicPartition) -> Records:
        fetcher = self._consumer._fetcher
        if tp not in fetcher._records:
            waiter = fetcher._create_fetch_waiter()
            # Not wait_for, which may answer a cancellation with what came at the same moment.
            await asyncio.wait({waiter}, timeout=POLL)
            waiter.cancel()
        fetched = fetcher._records.pop(tp, None)
        fetcher._notify(fetcher._wait_consume_future)
        if fetched is None:
            return Records.of([])
        if not isinstance(fetched, FetchResult):
            fetched.check_raise()
        return unpack(fetched, sys.maxsize)

    async def _stretch(
        self,
        get: Callable[[TopicPartition], Awaitable[_Many]],
        tp: TopicPartition,
        start: int,
        end: int | None,
        *,
        follow: bool,
    ) -> AsyncIterator[tuple[_Many, int]]:
        topic, partition = tp
        self._consumer.assign([tp])
        self._consumer.seek(tp, start)
        position, waited = start, 0.0
        while end is None or position < end:
            try:
                records = await get(tp)
            except OffsetOutOfRangeError:
                raise CheckpointError(
                    f"{topic}[{partition}] does not hold offset {start}: the topic was truncated or made anew"
                ) from None
            before, position = position, await self._consumer.position(tp)
            if records or position > before:
                waited = 0.0
                if end is not None and position > end:
                    records = records[: bisect_left(records, end, key=_offset)]
                    position = max(end, before)
                yield records, position
            elif follow:
                continue
            elif end is None and self._at_end(tp, position):
                return
            else:
                waited += POLL
                if waited > READ_DEADLINE:
                    if self._at_end(tp, position):
                        raise CheckpointError(
                            f"{topic}[{partition}] ends at {position}, expected {end}: it was truncated or made anew"
                        )
                    raise NoAnswer(f"{topic}[{partition}] could not be read beyond {position}: no answer")
                await asyncio.sleep(0)

    def _at_end(self, tp: TopicPartition, position: int) -> bool:
        # ListOffsets is not asked: what the fetch itself brought is what holds for this reader.
        end = self._consumer.last_stable_offset(tp) if self._committed else self._consumer.highwater(tp)
        return end is not None and 0 <= end <= position
