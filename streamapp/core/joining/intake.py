"""One input partition as it is read: which records came, their log times, and those that wait for their turn."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from streamapp.core.events import Outcome, Prediction
from streamapp.errors import DecodeError

Event = Prediction | Outcome | DecodeError
Record = tuple[int, float, bytes | None, bytes | None, Event]
"""Offset, log time, key, value as it came, event."""

_MARK = 1024
"""Offsets between two marks, at least."""


@dataclass(slots=True)
class InputBatch:
    """What one fetch brought for one partition of an input topic, decoded. All columns have the same length."""

    offsets: Sequence[int]
    """Rising; there may be gaps."""
    timestamps: Sequence[float]
    """The records' own timestamps, in seconds."""
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    events: Sequence[Prediction | Outcome | DecodeError]
    """What became of ``values``."""


class Intake:
    """Reads one partition in offset order; records before :attr:`applied` are skipped silently.

    The log time of a record is the running maximum of the timestamps of its partition.
    """

    def __init__(self) -> None:
        self.applied = 0
        """Next offset to hand in."""
        self.done = 0
        """Next offset to settle: records from here to ``applied`` wait in :attr:`buffer`."""
        self.log_time = 0.0
        """Log time of the last record handed in."""
        self.proven = 0.0
        """Every record with a log time up to this one has been handed in, because the end was seen."""
        self.buffer: deque[Record] = deque()
        self._marks: deque[tuple[int, float]] = deque()
        """Some offsets, each with the log time before it, from the last base on."""
        self._reread_next = 0
        self._reread_log_time = 0.0

    @property
    def frontier(self) -> float:
        """Log time below which nothing is unread."""
        return max(self.log_time, self.proven)

    def has_all(self, log_time: float) -> bool:
        """Return whether every record with a log time up to this one, ties included, has been handed in."""
        return log_time < self.log_time or log_time <= self.proven

    def hand_in(self, batch: InputBatch) -> None:
        """Put the new records of a batch into the buffer."""
        records = self._records(batch, self.applied)
        self.buffer.extend(records)
        if records:
            self.applied = records[-1][0] + 1

    def base(self, lowest: int | None) -> tuple[int, float]:
        """Return an offset to read again from, and the log time before it.

        Args:
            lowest: Lowest offset that a restore needs, None if it needs none of the settled ones.
        """
        lowest = self.done if lowest is None else min(lowest, self.done)
        if lowest >= self.applied:
            self._marks.clear()
            return self.applied, self.log_time
        while len(self._marks) > 1 and self._marks[1][0] <= lowest:
            self._marks.popleft()
        return self._marks[0]

    def rewind(self, base: int, log_time: float) -> None:
        """Begin to read again from *base*; :meth:`reread` then takes what lies before :attr:`applied`."""
        self._marks.append((base, log_time))
        self._reread_log_time = log_time
        self._reread_next = base

    def reread(self, batch: InputBatch) -> Iterator[Record]:
        """Yield the records of a batch that come next between base and :attr:`applied`, with their log times.

        Those that were not settled go back into the buffer instead.
        """
        settled_log_time, self.log_time = self.log_time, self._reread_log_time
        records = self._records(batch, self._reread_next)
        self.log_time, self._reread_log_time = settled_log_time, self.log_time
        for record in records:
            offset = record[0]
            if offset >= self.applied:
                break
            self._reread_next = offset + 1
            if offset >= self.done:
                self.buffer.append(record)
            else:
                yield record

    @property
    def complete(self) -> bool:
        """Whether the buffer holds the first and the last of the records that are not settled."""
        if self.done >= self.applied:
            return True
        return bool(self.buffer) and (self.buffer[0][0], self.buffer[-1][0] + 1) == (self.done, self.applied)

    def _records(self, batch: InputBatch, first: int) -> list[Record]:
        """Return the records from offset *first* on, and move the log time on."""
        offsets = batch.offsets
        if not len(offsets):
            return []
        skip = 0 if offsets[0] >= first else int(np.searchsorted(np.asarray(offsets), first))
        if skip == len(offsets):
            return []
        if not self._marks or offsets[skip] - self._marks[-1][0] >= _MARK:
            self._marks.append((offsets[skip], self.log_time))
        times = np.maximum.accumulate(np.asarray(batch.timestamps[skip:], dtype=np.float64))
        log_times = np.maximum(times, self.log_time).tolist()
        self.log_time = log_times[-1]
        if not skip:
            return list(zip(offsets, log_times, batch.keys, batch.values, batch.events, strict=True))
        columns = (batch.offsets[skip:], log_times, batch.keys[skip:], batch.values[skip:], batch.events[skip:])
        return list(zip(*columns, strict=True))
