"""Records out of a fetched answer, a batch at a time.

aiokafka makes an object of its own of each record, through a generator; that is half of what fetching costs. The
records of its Cython parser have all that is needed here: offset, timestamp, key, value.
"""

from typing import Any

from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult
from aiokafka.errors import CorruptRecordException


def unpack(fetched: FetchResult, limit: int) -> list[Any]:
    """Take records out of a fetch result and move its partition's position behind them.

    Args:
        fetched: What one fetch brought for one partition.
        limit: Records after which no further batch is opened; a batch is never split.

    Returns:
        Records by rising offset, without those of aborted transactions. Empty where the position has moved since.

    Raises:
        CorruptRecordException: A batch is damaged.
    """
    if not fetched.has_more() or not fetched.check_assignment(None):
        return []
    source = fetched._partition_records
    batches = source._records
    taken: list[Any] = []
    while len(taken) < limit and batches.has_next():
        batch = batches.next_batch()
        if source._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"invalid CRC at offset {batch.base_offset}")
        if not _hidden(source, batch):
            records = list(batch)
            # A compressed batch comes whole, also when only its end was asked for.
            skip = source.next_fetch_offset
            taken += records if batch.base_offset >= skip else [record for record in records if record.offset >= skip]
        source.next_fetch_offset = batch.next_offset
    fetched._update_position()
    if not batches.has_next():
        fetched._partition_records = None
    return taken


def _hidden(source: Any, batch: Any) -> bool:
    """Tell whether a batch is a marker, or belongs to a transaction that was aborted."""
    if source._isolation_level == READ_COMMITTED and batch.producer_id is not None:
        source._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and source._contains_abort_marker(batch):
            source._aborted_producers.discard(batch.producer_id)
        if batch.is_transactional and batch.producer_id in source._aborted_producers:
            return True
    return bool(batch.is_control_batch)
