"""What a fetch brought is handed over whole, and what cannot be read is named."""

import asyncio
import struct
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchError, FetchResult, PartitionRecords
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from faust.types import TP

from streamapp.stream.transport import (
    FETCH_BYTES,
    FETCH_MAX_WAIT_MS,
    FLOW_WAIT_MS,
    MAX_RECORDS,
    UNREAD_WAIT_MS,
    Batch,
    Consumer,
    ConsumerThread,
    FetchFailed,
    pace,
)
from tests.stream.doubles import run

ATTRIBUTES = 22
"""Place of the low byte of a batch's attributes."""
CONTROL = 0x20
ABORT, COMMIT = b"\x00\x00\x00\x00", b"\x00\x00\x00\x01"
"""Keys of the two kinds of marker."""


def wire(start: int, count: int, *, producer: int = -1, control: bytes | None = None) -> bytes:
    """Return a record batch as a broker sends it: data, or the marker that *control* is the key of."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=int(producer >= 0),
        producer_id=producer,
        producer_epoch=0,
        base_sequence=0,
        batch_size=1 << 20,
    )
    for i in range(count):
        builder.append(i, 1000 + i, control if control is not None else b"key", b"value", [])
    batch = bytearray(builder.build())
    struct.pack_into(">q", batch, 0, start)
    if control is not None:
        batch[ATTRIBUTES] |= CONTROL
    return bytes(batch)


def answer(start: int, *batches: bytes, aborted: list[tuple[int, int]] | None = None) -> PartitionRecords:
    """Return what aiokafka makes of an answer: (producer, first offset) of aborted transactions beside the batches."""
    records = MemoryRecords(b"".join(batches))
    tp = TopicPartition("a", 0)
    return PartitionRecords(tp, records, aborted or [], start, None, None, False, READ_COMMITTED)


class Fetcher:
    """As much of aiokafka's fetcher as is asked for."""

    def __init__(self, **positions: int) -> None:
        self._subscriptions = SubscriptionState()
        self._subscriptions.assign_from_user([TopicPartition(topic, 0) for topic in positions])
        self._assignment = self._subscriptions.subscription.assignment
        for topic, position in positions.items():
            self._assignment.state_value(TopicPartition(topic, 0)).reset_to(position)
        self._records: dict[TopicPartition, Any] = {}
        self._wait_consume_future = None
        self.woken = 0

    def _notify(self, future: Any) -> None:
        self.woken += 1

    def fetched(self, topic: str, records: PartitionRecords) -> None:
        tp = TopicPartition(topic, 0)
        self._records[tp] = FetchResult(tp, assignment=self._assignment, partition_records=records, backoff=0)


def drain(fetcher: Fetcher, *active: str) -> list[tuple[str, int, int, int]]:
    """Return topic, start, end and number of records of each batch."""
    thread = SimpleNamespace()
    batches = ConsumerThread._drain(thread, fetcher, {TP(topic, 0) for topic in active})  # type: ignore[arg-type]
    return [(batch.tp.topic, batch.start, batch.end, len(batch.records)) for batch in batches]


def test_a_batch_is_what_one_fetch_brought_for_one_partition() -> None:
    async def work() -> None:
        fetcher = Fetcher(a=3, b=7)
        fetcher.fetched("a", answer(3, wire(3, 2)))
        fetcher.fetched("b", answer(7, wire(7, 1)))
        assert drain(fetcher, "a", "b") == [("a", 3, 5, 2), ("b", 7, 8, 1)]
        assert fetcher._records == {}
        assert fetcher.woken == 2
        assert drain(fetcher, "a", "b") == []

    run(work())


def test_markers_behind_the_records_move_the_end_also_where_there_are_no_records() -> None:
    async def work() -> None:
        fetcher = Fetcher(a=3, b=7)
        fetcher.fetched("a", answer(3, wire(3, 2), wire(5, 1, producer=9, control=COMMIT)))
        fetcher.fetched("b", answer(7, wire(7, 1, producer=9, control=COMMIT)))
        assert drain(fetcher, "a", "b") == [("a", 3, 6, 2), ("b", 7, 8, 0)]

    run(work())


def test_paused_partitions_keep_what_was_fetched() -> None:
    async def work() -> None:
        fetcher = Fetcher(a=3, b=7)
        fetcher.fetched("a", answer(3, wire(3, 2)))
        fetcher.fetched("b", answer(7, wire(7, 1)))
        assert drain(fetcher, "b") == [("b", 7, 8, 1)]
        assert drain(fetcher, "a") == [("a", 3, 5, 2)]

    run(work())


def test_what_was_fetched_before_a_seek_is_thrown_away() -> None:
    async def work() -> None:
        fetcher = Fetcher(a=3)
        fetcher.fetched("a", answer(3, wire(3, 2)))
        fetcher._assignment.state_value(TopicPartition("a", 0)).seek(0)
        assert drain(fetcher, "a") == []
        assert fetcher._records == {}

    run(work())


def test_an_input_that_nobody_has_sought_yet_is_not_a_failed_fetch() -> None:
    async def work() -> None:
        fetcher = Fetcher(a=3, b=7)
        fetcher._records[TopicPartition("a", 0)] = FetchError(error=NoOffsetForPartitionError("a"), backoff=0)
        fetcher.fetched("b", answer(7, wire(7, 1)))
        assert drain(fetcher, "a", "b") == [("b", 7, 8, 1)]
        assert fetcher._records == {}
        assert fetcher.woken == 2

    run(work())


def test_a_damaged_batch_is_a_failed_fetch_of_its_partition() -> None:
    async def work() -> None:
        fetcher = Fetcher(a=3)
        damaged = bytearray(wire(3, 2))
        damaged[-1] ^= 0xFF
        records = answer(3, bytes(damaged))
        records._check_crcs = True
        fetcher.fetched("a", records)
        with pytest.raises(FetchFailed, match=r"a\[0\].*CRC") as caught:
            drain(fetcher, "a")
        assert caught.value.tp == TP("a", 0)
        assert isinstance(caught.value.error, CorruptRecordException)
        assert fetcher._records == {}
        assert fetcher.woken == 1

    run(work())


def test_a_batch_that_nothing_can_decompress_is_a_failed_fetch_of_its_partition() -> None:
    async def work() -> None:
        fetcher = Fetcher(a=3)
        unreadable = bytearray(wire(3, 2))
        unreadable[ATTRIBUTES] |= 0x01  # says gzip, is not
        fetcher.fetched("a", answer(3, bytes(unreadable)))
        with pytest.raises(FetchFailed, match=r"a\[0\]"):
            drain(fetcher, "a")
        assert fetcher._records == {}

    run(work())


def test_records_of_aborted_transactions_are_passed_over_and_later_ones_of_the_producer_are_not() -> None:
    async def work() -> None:
        fetcher = Fetcher(a=3)
        fetcher.fetched(
            "a",
            answer(
                3,
                wire(3, 2, producer=9),
                wire(5, 1, producer=4),
                wire(6, 1, producer=9, control=ABORT),
                wire(7, 3, producer=9),
                wire(10, 1, producer=9, control=COMMIT),
                aborted=[(9, 3)],
            ),
        )
        thread = SimpleNamespace()
        (batch,) = ConsumerThread._drain(thread, fetcher, {TP("a", 0)})  # type: ignore[arg-type]
        assert [record.offset for record in batch.records] == [5, 7, 8, 9]
        assert (batch.start, batch.end) == (3, 11)

    run(work())


def test_of_a_batch_that_begins_before_the_position_only_the_rest_is_taken() -> None:
    async def work() -> None:
        fetcher = Fetcher(a=4)
        fetcher.fetched("a", answer(4, wire(2, 5)))
        thread = SimpleNamespace()
        (batch,) = ConsumerThread._drain(thread, fetcher, {TP("a", 0)})  # type: ignore[arg-type]
        assert [record.offset for record in batch.records] == [4, 5, 6]
        first = batch.records[0]
        assert (first.key, first.value, first.timestamp) == (b"key", b"value", 1002)

    run(work())


def test_a_large_answer_is_handed_over_in_parts_that_follow_each_other() -> None:
    async def work() -> None:
        fetcher = Fetcher(a=0)
        fetcher.fetched("a", answer(0, *(wire(i * 1000, 1000) for i in range(5))))
        first, second, none = (drain(fetcher, "a") for _ in range(3))
        assert first == [("a", 0, MAX_RECORDS, MAX_RECORDS)]
        assert second == [("a", MAX_RECORDS, 5000, 5000 - MAX_RECORDS)]
        assert none == []

    run(work())


def test_a_position_out_of_range_is_a_failed_fetch_of_its_partition() -> None:
    async def work() -> None:
        fetcher = Fetcher(a=3)
        error = OffsetOutOfRangeError({})
        fetcher._records[TopicPartition("a", 0)] = FetchError(error=error, backoff=0)
        with pytest.raises(FetchFailed) as caught:
            drain(fetcher, "a")
        assert caught.value.error is error

    run(work())


def test_what_was_fetched_of_others_is_not_lost_with_a_failure() -> None:
    async def work() -> None:
        fetcher = Fetcher(a=3, b=7)
        fetcher.fetched("a", answer(3, wire(3, 2)))
        fetcher._records[TopicPartition("b", 0)] = FetchError(error=OffsetOutOfRangeError({}), backoff=0)
        with pytest.raises(FetchFailed):
            drain(fetcher, "a", "b")
        assert drain(fetcher, "a", "b") == [("a", 3, 5, 2)]

    run(work())


def test_what_was_taken_out_of_others_is_handed_over_before_a_damaged_batch_fails() -> None:
    async def work() -> None:
        fetcher = Fetcher(a=3, b=7)
        fetcher.fetched("a", answer(3, wire(3, 2)))
        damaged = bytearray(wire(7, 1))
        damaged[-1] ^= 0xFF
        fetcher.fetched("b", answer(7, bytes(damaged)))
        assert drain(fetcher, "a", "b") == [("a", 3, 5, 2)]
        with pytest.raises(FetchFailed, match="CorruptRecord"):
            drain(fetcher, "a", "b")
        assert drain(fetcher, "a", "b") == []

    run(work())


@pytest.mark.parametrize("flows", [True, False])
def test_a_consumer_that_stops_is_an_error_only_while_batches_are_wanted(flows: bool) -> None:
    app = SimpleNamespace(should_stop=False, consumer_generation_id=1)
    consumer: Any = SimpleNamespace(
        should_stop=False,
        flow_active=True,
        transport=SimpleNamespace(app=app),
        app=app,
        _get_active_partitions=lambda: {TP("a", 0)},
    )

    async def stopped(active: set[TP], timeout: float) -> list[Batch]:
        consumer.flow_active = flows
        raise ConsumerStoppedError

    consumer._thread = SimpleNamespace(fetch=stopped)
    with nullcontext() if not flows else pytest.raises(ConsumerStoppedError):
        run(Consumer._drain_messages(consumer, SimpleNamespace(should_stop=False)))


def test_once_the_flow_has_ended_no_assignment_makes_it_go_on() -> None:
    async def work() -> None:
        consumer = Consumer.__new__(Consumer)
        consumer.can_resume_flow, consumer.suspend_flow = asyncio.Event(), asyncio.Event()
        consumer.stop_flow()
        consumer.resume_flow()
        assert consumer.flow_active
        assert consumer.can_resume_flow.is_set()
        consumer.end_flow()
        await consumer.perform_seek()  # asks nobody: what it would ask may have gone
        consumer.resume_flow()
        assert not consumer.flow_active
        assert not consumer.can_resume_flow.is_set()
        assert consumer.suspend_flow.is_set()

    run(work())


class Asked(Fetcher):
    """A fetcher that remembers how each fetch was asked for."""

    def __init__(self, **positions: int) -> None:
        super().__init__(**positions)
        self.waits: list[tuple[int, int]] = []
        self.brings = False

    async def _proc_fetch_request(self, assignment: Any, node_id: int, request: Any) -> bool:
        self.waits.append((request._max_wait_ms, request._min_bytes))
        return self.brings

    async def ask(self, *, brings: bool = False) -> tuple[int, int]:
        """Fetch; return how many milliseconds the broker may hold it, and for how many bytes."""
        self.brings = brings
        request = SimpleNamespace(_max_wait_ms=FETCH_MAX_WAIT_MS, _min_bytes=1, topics=[])
        await self._proc_fetch_request(self._assignment, 0, request)
        return self.waits[-1]


def test_a_fetch_is_held_for_long_only_if_nothing_waits_to_be_handed_over() -> None:
    async def work() -> None:
        fetcher = Asked(a=3, b=7)
        pace(fetcher)
        assert await fetcher.ask() == (FETCH_MAX_WAIT_MS, 1)
        fetcher.fetched("a", answer(3, wire(3, 2)))
        assert await fetcher.ask() == (UNREAD_WAIT_MS, 1)
        drain(fetcher, "a")
        assert await fetcher.ask() == (FETCH_MAX_WAIT_MS, 1)

    run(work())


def test_what_nobody_reads_on_lets_fetches_be_held_longer_and_longer() -> None:
    async def work() -> None:
        fetcher = Asked(a=0, b=7)
        pace(fetcher)
        fetcher.fetched("a", answer(0, *(wire(i * 1000, 1000) for i in range(2 * MAX_RECORDS // 1000))))
        waits = [(await fetcher.ask())[0] for _ in range(6)]
        assert waits[:3] == [UNREAD_WAIT_MS, 2 * UNREAD_WAIT_MS, 4 * UNREAD_WAIT_MS]
        assert waits[-1] == FETCH_MAX_WAIT_MS
        drain(fetcher, "a")
        assert await fetcher.ask() == (UNREAD_WAIT_MS, 1)

    run(work())


def test_a_broker_is_given_a_moment_to_collect_records_once_it_had_some() -> None:
    async def work() -> None:
        fetcher = Asked(a=3)
        pace(fetcher)
        assert await fetcher.ask() == (FETCH_MAX_WAIT_MS, 1)
        assert await fetcher.ask(brings=True) == (FETCH_MAX_WAIT_MS, 1)
        assert await fetcher.ask(brings=True) == (FLOW_WAIT_MS, FETCH_BYTES)
        assert await fetcher.ask() == (FLOW_WAIT_MS, FETCH_BYTES)
        assert await fetcher.ask() == (FETCH_MAX_WAIT_MS, 1)

    run(work())


@pytest.mark.parametrize("answers", [True, False])
def test_it_is_known_when_a_fetch_was_last_answered(answers: bool) -> None:
    tp = TP("a", 0)
    state = SimpleNamespace(timestamp=5, highwater=9)
    assignment = SimpleNamespace(active=True, state_value=lambda _: state)

    class Fetched:
        async def _proc_fetch_request(self, *_: Any) -> bool:
            state.timestamp += answers
            return answers

    async def work() -> ConsumerThread:
        thread = ConsumerThread.__new__(ConsumerThread)
        thread.proofs, thread.answered = {}, 0.0
        fetcher = Fetched()
        thread._note_ends(fetcher)
        await fetcher._proc_fetch_request(assignment, 0, SimpleNamespace(topics=[("a", [(0, 9, 1)])]))
        return thread

    thread = run(work())
    assert (thread.answered > 0.0) is answers
    assert (tp in thread.proofs) is answers
