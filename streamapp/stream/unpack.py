"""Records out of a fetched answer, a batch at a time, as columns.

aiokafka makes an object of its own of each record, through a generator; that is half of what fetching costs. The
records of its Cython parser have all that is needed here, and live only until their batch has been taken apart: kept
for longer they would fill the caches and wake the garbage collector.
"""

from operator import attrgetter
from typing import Any

from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult
from aiokafka.errors import CorruptRecordException

from streamapp.stream.records import LOG_APPEND_TIME, Columns, Records

_key = attrgetter("key")
_value = attrgetter("value")


def unpack(fetched: FetchResult, limit: int) -> Records:
    """Take records out of a fetch result and move its partition's position behind them.

    Args:
        fetched: What one fetch brought for one partition.
        limit: Records after which no further batch is opened; a batch is never split.

    Returns:
        Records by rising offset, without those of aborted transactions. Empty where the position has moved since.

    Raises:
        CorruptRecordException: A batch is damaged.
    """
    taken = Columns()
    if not fetched.has_more() or not fetched.check_assignment(None):
        return taken.take()
    source = fetched._partition_records
    batches = source._records
    while len(taken) < limit and batches.has_next():
        batch = batches.next_batch()
        if source._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"invalid CRC at offset {batch.base_offset}")
        if not _hidden(source, batch):
            _take(batch, source.next_fetch_offset, taken)
        source.next_fetch_offset = batch.next_offset
    fetched._update_position()
    if not batches.has_next():
        fetched._partition_records = None
        # This generator, which nobody has begun, holds its owner, which holds it and the whole answer: megabytes that
        # would stay until the garbage collector comes to them.
        source._records_iterator = None
    return taken.take()


def _take(batch: Any, position: int, taken: Columns) -> None:
    """Add the records of a batch from a position on."""
    records = list(batch)
    first, by_broker = batch.base_offset, batch.timestamp_type == LOG_APPEND_TIME
    if by_broker and first >= position and len(records) == batch.next_offset - first:
        taken.run(first, len(records), batch.max_timestamp, by_broker=True)
    else:
        # A compressed batch comes whole, also when only its end was asked for; compaction leaves gaps.
        records = [record for record in records if record.offset >= position]
        for record in records:
            timestamp = record.timestamp
            taken.run(record.offset, 1, -1 if timestamp is None else timestamp, by_broker=by_broker)
    taken.keys += map(_key, records)
    taken.values += map(_value, records)


def _hidden(source: Any, batch: Any) -> bool:
    """Tell whether a batch is a marker, or belongs to a transaction that was aborted."""
    if source._isolation_level == READ_COMMITTED and batch.producer_id is not None:
        source._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and source._contains_abort_marker(batch):
            source._aborted_producers.discard(batch.producer_id)
        if batch.is_transactional and batch.producer_id in source._aborted_producers:
            return True
    return bool(batch.is_control_batch)
