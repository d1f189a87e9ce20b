"""What a fetch brought is handed over whole, and what cannot be read is named."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchError, FetchResult
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import CorruptRecordException, OffsetOutOfRangeError
from faust.types import TP

from streamapp.stream.transport import ConsumerThread, FetchFailed
from tests.stream.doubles import Stored, run


class Fetched:
    """What aiokafka makes of one answer: records, and where it goes on behind them."""

    def __init__(self, start: int, count: int, end: int, error: Exception | None = None) -> None:
        self.next_fetch_offset = start
        self._records = [Stored(start + i, 0, None, b"") for i in range(count)]
        self._end = end
        self._error = error

    def __iter__(self) -> Iterator[Stored]:
        for record in self._records:
            self.next_fetch_offset = record.offset + 1
            yield record
        if self._error is not None:
            raise self._error
        self.next_fetch_offset = self._end


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

    def fetched(self, topic: str, records: Fetched) -> None:
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
        fetcher.fetched("a", Fetched(3, 2, 5))
        fetcher.fetched("b", Fetched(7, 1, 8))
        assert drain(fetcher, "a", "b") == [("a", 3, 5, 2), ("b", 7, 8, 1)]
        assert fetcher._records == {}
        assert fetcher.woken == 2
        assert drain(fetcher, "a", "b") == []

    run(work())


def test_markers_behind_the_records_move_the_end_also_where_there_are_no_records() -> None:
    async def work() -> None:
        fetcher = Fetcher(a=3, b=7)
        fetcher.fetched("a", Fetched(3, 2, 6))
        fetcher.fetched("b", Fetched(7, 0, 8))
        assert drain(fetcher, "a", "b") == [("a", 3, 6, 2), ("b", 7, 8, 0)]

    run(work())


def test_paused_partitions_keep_what_was_fetched() -> None:
    async def work() -> None:
        fetcher = Fetcher(a=3, b=7)
        fetcher.fetched("a", Fetched(3, 2, 5))
        fetcher.fetched("b", Fetched(7, 1, 8))
        assert drain(fetcher, "b") == [("b", 7, 8, 1)]
        assert drain(fetcher, "a") == [("a", 3, 5, 2)]

    run(work())


def test_what_was_fetched_before_a_seek_is_thrown_away() -> None:
    async def work() -> None:
        fetcher = Fetcher(a=3)
        fetcher.fetched("a", Fetched(3, 2, 5))
        fetcher._assignment.state_value(TopicPartition("a", 0)).seek(0)
        assert drain(fetcher, "a") == []
        assert fetcher._records == {}

    run(work())


@pytest.mark.parametrize("error", [CorruptRecordException("crc"), ValueError("cannot decompress")])
def test_a_batch_that_cannot_be_unpacked_is_a_failed_fetch_of_its_partition(error: Exception) -> None:
    async def work() -> None:
        fetcher = Fetcher(a=3)
        fetcher.fetched("a", Fetched(3, 2, 5, error))
        with pytest.raises(FetchFailed, match=r"a\[0\]") as caught:
            drain(fetcher, "a")
        assert caught.value.tp == TP("a", 0)
        assert caught.value.error is error
        assert fetcher._records == {}
        assert fetcher.woken == 1

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
