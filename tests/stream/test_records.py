"""Columns say the same as the records that they are of."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamapp.stream.records import LOG_APPEND_TIME, Columns, Records, Row
from tests.stream.doubles import Stored

BYTES = st.none() | st.binary(max_size=5)


@st.composite
def stored(draw: st.DrawFn) -> list[Stored]:
    offsets = sorted(draw(st.sets(st.integers(0, 50), max_size=12)))
    return [
        Stored(
            offset,
            draw(st.integers(-1, 2**41)),
            draw(BYTES),
            draw(BYTES),
            timestamp_type=draw(st.sampled_from((0, LOG_APPEND_TIME))),
        )
        for offset in offsets
    ]


def rows(objects: list[Stored]) -> list[Row]:
    return [Row(each.offset, each.timestamp, each.key, each.value) for each in objects]


def kinds(objects: list[Stored]) -> list[bool]:
    return [each.timestamp_type == LOG_APPEND_TIME for each in objects]


@given(stored())
def test_columns_are_the_records_one_by_one(objects: list[Stored]) -> None:
    records = Records.of(objects)
    assert list(records) == rows(objects) == [records[place] for place in range(len(records))]
    assert records.by_broker.tolist() == kinds(objects)
    assert len(records) == len(objects)
    assert records.bytes == sum(len(each.value or b"") for each in objects)


@given(stored(), st.integers(0, 51), st.integers(0, 12))
def test_a_part_is_the_part_of_every_column(objects: list[Stored], offset: int, place: int) -> None:
    records = Records.of(objects)
    assert list(records.since(offset)) == [row for row in rows(objects) if row.offset >= offset]
    again = records[:place] + records[place:]
    assert list(again) == rows(objects)
    assert again.by_broker.tolist() == kinds(objects)
    assert list(records[place:]) == rows(objects)[place:]


def test_rows_are_plain_numbers_and_not_those_of_arrays() -> None:
    records = Records.of([Stored(7, 1000, b"k", b"v")])
    for row in (records[0], *records):
        assert (type(row.offset), type(row.timestamp)) == (int, int)


def test_a_record_without_a_time_is_told_from_one_at_zero() -> None:
    nothing: Any = None
    assert Records.of([Stored(0, nothing, None, b"v")]).timestamps.tolist() == [-1]


def test_runs_become_columns() -> None:
    columns = Columns()
    for first, count, timestamp in ((5, 3, 1000), (9, 1, 2000), (12, 2, 1500)):
        columns.run(first, count, timestamp, by_broker=timestamp != 2000)
        columns.keys += [None] * count
        columns.values += [b"v"] * count
    records = columns.take()
    assert records.offsets.tolist() == [5, 6, 7, 9, 12, 13]
    assert records.timestamps.tolist() == [1000, 1000, 1000, 2000, 1500, 1500]
    assert np.flatnonzero(~records.by_broker).tolist() == [3]


def test_nothing_is_columns_too() -> None:
    for nothing in (Columns().take(), Records.of([])):
        assert len(nothing) == nothing.bytes == 0
        assert list(nothing) == []
        assert nothing.offsets.dtype == np.int64
