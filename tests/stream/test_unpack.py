"""Columns out of an answer are what aiokafka itself makes of it, record by record."""

import struct
from typing import Any

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED, FetchResult, PartitionRecords
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from streamapp.stream.unpack import unpack
from tests.stream.doubles import run

TP = TopicPartition("a", 0)
ATTRIBUTES, MAX_TIMESTAMP = 22, 35
"""Places in a batch: the low byte of its attributes, and the newest timestamp."""
APPEND_TIME, CONTROL = 0x08, 0x20
ABORT, COMMIT = b"\x00\x00\x00\x00", b"\x00\x00\x00\x01"
GZIP = 1


@st.composite
def batches(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, int]], int]:
    """Draw an answer: its bytes, (producer, first offset) of transactions that were aborted, and the position."""
    offset = draw(st.integers(0, 5))
    parts: list[bytes] = []
    aborted: list[tuple[int, int]] = []
    position = 0
    for _ in range(draw(st.integers(1, 6))):
        producer = draw(st.sampled_from((-1, 1, 2)))
        marker = draw(st.sampled_from((None, None, ABORT, COMMIT))) if producer >= 0 else None
        deltas = [0] if marker else sorted(draw(st.sets(st.integers(0, 6), min_size=1, max_size=5)))
        builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=draw(st.sampled_from((0, GZIP))) if marker is None else 0,
            is_transactional=int(producer >= 0),
            producer_id=producer,
            producer_epoch=0,
            base_sequence=0,
            batch_size=1 << 20,
        )
        for delta in deltas:
            key = marker or draw(st.none() | st.binary(max_size=3))
            value = draw(st.none() | st.binary(max_size=3)) if key else b"value"
            assert builder.append(delta, 1000 + draw(st.integers(0, 9)), key, value, []) is not None
        data = bytearray(builder.build())
        struct.pack_into(">q", data, 0, offset)
        if marker:
            data[ATTRIBUTES] |= CONTROL
        elif draw(st.booleans()):
            data[ATTRIBUTES] |= APPEND_TIME
            struct.pack_into(">q", data, MAX_TIMESTAMP, draw(st.integers(1000, 2000)))
        if producer >= 0 and marker is None and draw(st.booleans()):
            aborted.append((producer, offset))
        if not parts:  # a broker begins with the batch that has the position, or the next one
            position = draw(st.integers(0, offset + deltas[-1]))
        parts.append(bytes(data))
        offset += deltas[-1] + 1 + draw(st.integers(0, 2))
    return b"".join(parts), aborted, position


def answer(data: bytes, aborted: list[tuple[int, int]], position: int, isolation: int) -> PartitionRecords:
    return PartitionRecords(TP, MemoryRecords(data), list(aborted), position, None, None, False, isolation)


def fetched(records: PartitionRecords, position: int) -> FetchResult:
    subscriptions = SubscriptionState()
    subscriptions.assign_from_user([TP])
    assignment = subscriptions.subscription.assignment
    assignment.state_value(TP).reset_to(position)
    return FetchResult(TP, assignment=assignment, partition_records=records, backoff=0)


@given(batches(), st.sampled_from((READ_COMMITTED, READ_UNCOMMITTED)), st.integers(1, 20))
def test_columns_are_what_aiokafka_makes_of_the_same_answer(
    drawn: tuple[bytes, list[tuple[int, int]], int], isolation: int, limit: int
) -> None:
    wire, aborted, position = drawn

    async def work() -> tuple[list[Any], list[Any], int, int]:
        theirs = answer(wire, aborted, position, isolation)
        rows: list[Any] = [(r.offset, r.timestamp, r.timestamp_type, r.key, r.value) for r in theirs]
        result = fetched(answer(wire, aborted, position, isolation), position)
        state = result._assignment.state_value(TP)
        found: list[Any] = []
        while result.has_more():
            before, records = state.position, unpack(result, limit)
            assert state.position >= before
            found += [
                (*row[:2], int(by_broker), *row[2:]) for row, by_broker in zip(records, records.by_broker, strict=True)
            ]
        return rows, found, theirs.next_fetch_offset, state.position

    rows, found, their_position, our_position = run(work())
    assert found == rows
    assert our_position == their_position
