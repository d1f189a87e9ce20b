"""Read a stretch of a partition from outside the consumer group: checkpoints, re-reads, what a learner asks for."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiokafka
from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from streamapp.config import ProcessConfig
from streamapp.errors import CheckpointError, StreamappError

READ_DEADLINE = 60.0
"""Seconds without any progress after which a read fails."""


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

    async def read(
        self, topic: str, partition: int, start: int | None = None, end: int | None = None, *, follow: bool = False
    ) -> AsyncIterator[tuple[list[Any], int]]:
        """Yield lists of records and the position behind each, from *start* to *end*.

        Args:
            topic: Full name.
            partition: Its number.
            start: First offset; None: the oldest there is.
            end: First offset that is no longer wanted; None: up to the last stable offset at the time it is reached.
            follow: Never end: wait for what comes.

        Raises:
            CheckpointError: *start* is no longer, or not yet, in the log; or the log ends before *end*.
            NoAnswer: the broker hands out nothing.
        """
        tp = TopicPartition(topic, partition)
        if start is None:
            start = await self.beginning(topic, partition)
        self._consumer.assign([tp])
        self._consumer.seek(tp, start)
        position, waited = start, 0.0
        while end is None or position < end:
            try:
                got = await self._consumer.getmany(tp, timeout_ms=200)
            except OffsetOutOfRangeError:
                raise CheckpointError(
                    f"{topic}[{partition}] does not hold offset {start}: the topic was truncated or made anew"
                ) from None
            records = got.get(tp, [])
            before, position = position, await self._consumer.position(tp)
            if records or position > before:
                waited = 0.0
                if end is not None and position > end:
                    records = [record for record in records if record.offset < end]
                    position = max(end, before)
                yield records, position
            elif follow:
                continue
            elif end is None and self._at_end(tp, position):
                return
            else:
                waited += 0.2
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
