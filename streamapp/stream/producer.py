"""One task's way out: everything that follows from its input, in one transaction, or not at all."""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Protocol, TypeVar

import aiokafka
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerFenced, RecordListTooLargeError
from msgspec import Struct

from streamapp.config import ProcessConfig
from streamapp.core.hashing import murmur2
from streamapp.errors import StreamappError
from streamapp.stream.deadline import within

TRANSACTION_TIMEOUT_MS = 6_000
"""A task that dies inside a transaction holds readers back for this long, and the broker's sweep."""
START_DEADLINE = 30.0
COMMIT_DEADLINE = 10.0
STOP_DEADLINE = 3.0
"""Seconds. aiokafka has no deadlines of its own for these; a commit was seen to hang for ever."""

MOST_BYTES = (2 << 20) - 4096
"""Largest record: what ``scored`` and ``dead-letters`` take, less the frame around it."""

BATCH_BYTES = 1_000_000
"""Of one partition in one request, of which there is one at a time: a little less than what a topic takes unless it is
told otherwise. Where requests take long, so do many small ones."""

_T = TypeVar("_T")


class CommitFailed(StreamappError):
    """Nothing that was sent may be relied on. Throw the task's memory away and restore it."""


class TooLarge(StreamappError):
    """A record is larger than its topic takes, and would be again. Nothing was committed. Park the task."""


class Fenced(CommitFailed):
    """Another worker has taken this task over. Nothing that we write is seen any more."""


class Record(Struct, frozen=True, kw_only=True, gc=False):
    """One record to be sent."""

    topic: str
    partition: int | None
    """None: chosen by the key, as every Kafka client does."""
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker's word on the last record of a commit."""

    timestamp: float | None
    """The broker's own time, in seconds, where the topic carries it (``LogAppendTime``)."""
    received: float
    """Monotonic time at which the answer was here."""
    sent: int = 0
    """Bytes of all records."""
    took: float = 0.0
    """Seconds from the first record to the end of the commit."""


class Producer(Protocol):
    """How a task writes."""

    async def start(self) -> None:
        """Take the task over: from here on nobody before us can land anything."""

    async def commit(self, records: Sequence[Record]) -> Acknowledged:
        """Make the records visible together, the last one's answer returned.

        Raises:
            CommitFailed: it is not known that they are.
            TooLarge: they are not, and never can be.
        """

    async def stop(self) -> None:
        """Leave, within a deadline."""


class TransactionalProducer:
    """A producer whose transactional id is the task's, so that a newer owner fences it.

    Args:
        config: How to reach the broker.
        transactional_id: The same for every worker that ever owns the task.
    """

    def __init__(self, config: ProcessConfig, transactional_id: str) -> None:
        self.transactional_id = transactional_id
        self._producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=config.broker,
            client_id=transactional_id,
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            acks="all",
            max_batch_size=BATCH_BYTES,
            max_request_size=MOST_BYTES,
            request_timeout_ms=int(COMMIT_DEADLINE * 1000),
            **config.security(),
        )

    async def start(self) -> None:
        """Take the task over: the broker aborts what a former owner had open, and refuses it from then on."""
        try:
            await _within(START_DEADLINE, self._producer.start(), f"{self.transactional_id}: start")
        except KafkaError as error:
            raise _failure(self.transactional_id, error) from error

    async def commit(self, records: Sequence[Record]) -> Acknowledged:
        """Send all records in one transaction and commit it."""
        began = monotonic()
        answer = await _within(COMMIT_DEADLINE, self._commit(records), f"{self.transactional_id}: commit")
        return replace(answer, sent=sum(len(r.value or b"") for r in records), took=monotonic() - began)

    async def _commit(self, records: Sequence[Record]) -> Acknowledged:
        try:
            await self._producer.begin_transaction()
            acknowledged = await _send(self._producer, records)
            await self._producer.commit_transaction()
        except KafkaError as error:
            raise _failure(self.transactional_id, error) from error
        return acknowledged

    async def stop(self) -> None:
        """Close the connections. A transaction that is open stays so until the broker aborts it."""
        await _stop(self._producer)


class PlainProducer:
    """The same without transactions, for brokers that have none: it promises nothing.

    Args:
        config: How to reach the broker.
        client_id: Name shown to the broker.
    """

    def __init__(self, config: ProcessConfig, client_id: str) -> None:
        self._name = client_id
        self._producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=config.broker,
            client_id=client_id,
            acks="all",
            max_batch_size=BATCH_BYTES,
            max_request_size=MOST_BYTES,
            request_timeout_ms=int(COMMIT_DEADLINE * 1000),
            **config.security(),
        )

    async def start(self) -> None:
        """Connect. A former owner is not fenced."""
        await _within(START_DEADLINE, self._producer.start(), f"{self._name}: start")

    async def commit(self, records: Sequence[Record]) -> Acknowledged:
        """Send all records and wait until each is acknowledged."""
        try:
            return await _within(COMMIT_DEADLINE, _send(self._producer, records), f"{self._name}: send")
        except KafkaError as error:
            raise _failure(self._name, error) from error

    async def stop(self) -> None:
        """Close the connections."""
        await _stop(self._producer)


def producer(config: ProcessConfig, role: str, partition: int) -> Producer:
    """Return the producer of one task.

    The id has no consumer group in it: two deployments on one prefix fence each other instead of both writing.
    """
    name = f"{config.topic_prefix}{role}-{partition}"
    return TransactionalProducer(config, name) if config.transactions else PlainProducer(config, name)


async def _send(kafka: aiokafka.AIOKafkaProducer, records: Sequence[Record]) -> Acknowledged:
    # In batches that are filled here: sent one by one, each record would cost several times as much.
    sending = [
        asyncio.ensure_future(_send_to(kafka, topic, partition, some))
        for (topic, partition), some in (await _placed(kafka, records)).items()
    ]
    try:
        # Every one is awaited: aiokafka commits happily after a failed send.
        answers = [answer for some in await asyncio.gather(*sending) for answer in some]
    except BaseException:
        for each in sending:
            each.cancel()  # else each would say on its own that nobody asked for its error
        raise
    received = monotonic()
    times = [a.timestamp for a in answers if a.timestamp_type == 1 and a.timestamp is not None]
    return Acknowledged(max(times) / 1000 if times else None, received)


async def _placed(kafka: aiokafka.AIOKafkaProducer, records: Iterable[Record]) -> dict[tuple[str, int], list[Record]]:
    """Return records by topic and partition; what names no partition goes where its key belongs."""
    placed: dict[tuple[str, int], list[Record]] = {}
    keyed: dict[str, list[Record]] = {}
    for record in records:
        if record.partition is None:
            keyed.setdefault(record.topic, []).append(record)
        else:
            placed.setdefault((record.topic, record.partition), []).append(record)
    for topic, some in keyed.items():
        partitions = len(await kafka.partitions_for(topic))
        places = (murmur2([record.key or b"" for record in some]) & 0x7FFFFFFF) % partitions
        for place, record in zip(places.tolist(), some, strict=True):
            placed.setdefault((topic, place), []).append(record)
    return placed


async def _send_to(
    kafka: aiokafka.AIOKafkaProducer, topic: str, partition: int, records: Iterable[Record]
) -> list[Any]:
    """Send records to one partition, in order, and return the broker's answers."""
    answers: list[Any] = []
    batch = kafka.create_batch()
    for record in records:
        size = len(record.key or b"") + len(record.value or b"")
        if size > MOST_BYTES:
            raise MessageSizeTooLargeError(f"a record for {topic} has {size} bytes; {MOST_BYTES} is the most")
        headers = list(record.headers)
        if batch.append(timestamp=None, key=record.key, value=record.value, headers=headers) is None:  # it is full
            answers.append(await kafka.send_batch(batch, topic, partition=partition))
            batch = kafka.create_batch()
            batch.append(timestamp=None, key=record.key, value=record.value, headers=headers)  # the first always fits
    answers.append(await kafka.send_batch(batch, topic, partition=partition))
    return await asyncio.gather(*answers)


async def _within(seconds: float, work: Awaitable[_T], what: str) -> _T:
    try:
        return await within(seconds, work)
    except TimeoutError:
        raise CommitFailed(f"{what} took more than {seconds:g} s") from None


async def _stop(kafka: aiokafka.AIOKafkaProducer) -> None:
    try:
        await within(STOP_DEADLINE, kafka.stop())
    except (TimeoutError, KafkaError, OSError):
        kafka._closed = True  # dropped as it is: a producer that missed its deadline is never used again


def _failure(name: str, error: KafkaError) -> StreamappError:
    kind: type[StreamappError] = CommitFailed
    if isinstance(error, ProducerFenced):
        kind = Fenced
    elif isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
        kind = TooLarge
    return kind(f"{name}: {type(error).__name__}: {error}")
