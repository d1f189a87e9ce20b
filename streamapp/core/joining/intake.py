"""One input partition as it is read: which records came, their log times, and those that wait for their turn."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nextafter
from typing import Literal

import numpy as np

from streamapp.core.events import Floats, Ints, Outcome, Prediction
from streamapp.errors import DecodeError

Event = Prediction | Outcome | DecodeError

FUTURE = 300.0
"""Seconds that a ``ts`` may lie beyond the log time of its own record."""
_MARK = 1024
"""Offsets between two marks, at least."""


@dataclass(slots=True)
class InputBatch:
    """What one fetch brought for one partition of an input topic, decoded. All columns have the same length."""

    offsets: Sequence[int] | Ints
    """Rising; there may be gaps."""
    timestamps: Sequence[float] | Floats
    """The records' own timestamps, in seconds."""
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    events: Sequence[Prediction | Outcome | DecodeError]
    """What became of ``values``; anything for records that are read again though nothing needs them."""


@dataclass(slots=True)
class Records:
    """Records of one partition in order; all columns have the same length."""

    offsets: Ints
    log_times: Floats
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    events: Sequence[Event]

    def __len__(self) -> int:
        return len(self.offsets)

    def part(self, start: int, end: int) -> "Records":
        """Return some of them."""
        if start == 0 and end == len(self):
            return self
        chosen = slice(start, end)
        return Records(
            self.offsets[chosen], self.log_times[chosen], self.keys[chosen], self.values[chosen], self.events[chosen]
        )


NONE = Records(np.empty(0, np.int64), np.empty(0), (), (), ())


def joined(parts: Sequence[Records]) -> Records:
    """Return all records of several parts."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return NONE
    return Records(
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.log_times for part in parts]),
        [key for part in parts for key in part.keys],
        [value for part in parts for value in part.values],
        [event for part in parts for event in part.events],
    )


class Intake:
    """Reads one partition in offset order; records before :attr:`applied` are skipped silently.

    The log time of a record is the running maximum of the timestamps of its partition.
    """

    def __init__(self) -> None:
        self.applied = 0
        """Next offset to hand in."""
        self.done = 0
        """Next offset to settle: records from here to ``applied`` wait."""
        self.log_time = 0.0
        """Log time of the last record handed in."""
        self.proven = -1.0
        """Every record with a log time up to this one has been handed in, because the end was seen."""
        self._waiting: deque[Records] = deque()
        self._marks: deque[tuple[int, float]] = deque()
        """Some offsets, each with the log time before it, from the last base on."""
        self._reread_next = 0
        self._reread_log_time = 0.0

    def __len__(self) -> int:
        """Return how many records wait for their turn."""
        return sum(map(len, self._waiting))

    @property
    def frontier(self) -> float:
        """Log time below which nothing is unread."""
        return max(self.log_time, self.proven)

    @property
    def next(self) -> float | None:
        """Log time of the first record that waits."""
        return float(self._waiting[0].log_times[0]) if self._waiting else None

    def hand_in(self, batch: InputBatch) -> None:
        """Let the new records of a batch wait for their turn."""
        records = self._records(batch, self.applied)
        if len(records):
            self._waiting.append(records)
            self.applied = int(records.offsets[-1]) + 1

    def up_to(self, log_time: float) -> Records:
        """Take the records that wait with a log time up to this one, ties included."""
        return self._take(log_time, "right")

    def before_all_of(self, other: "Intake", log_time: float) -> Records:
        """Take the records that wait, up to a log time, of which everything elsewhere was handed in, ties included."""
        before = self._take(min(other.log_time, nextafter(log_time, inf)), "left")
        proven = self._take(min(other.proven, log_time), "right")
        return joined([part for part in (before, proven) if len(part)])

    def _take(self, log_time: float, side: Literal["left", "right"]) -> Records:
        taken: list[Records] = []
        while self._waiting:
            first = self._waiting[0]
            n = int(np.searchsorted(first.log_times, log_time, side))
            if n == len(first):
                taken.append(self._waiting.popleft())
                continue
            if n:
                taken.append(first.part(0, n))
                self._waiting[0] = first.part(n, len(first))
            break
        self.done = int(self._waiting[0].offsets[0]) if self._waiting else self.applied
        return joined(taken)

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

    def reread(self, batch: InputBatch) -> Records:
        """Return the records of a batch that come next between base and :attr:`done`, with their log times.

        Those that were not settled wait for their turn again.
        """
        settled_log_time, self.log_time = self.log_time, self._reread_log_time
        records = self._records(batch, self._reread_next)
        self.log_time, self._reread_log_time = settled_log_time, self.log_time
        done, end = np.searchsorted(records.offsets, (self.done, self.applied)).tolist()
        if end:
            self._reread_next = int(records.offsets[end - 1]) + 1
        if end > done:
            self._waiting.append(records.part(done, end))
        return records.part(0, done)

    @property
    def complete(self) -> bool:
        """Whether the first and the last of the records that are not settled wait."""
        if self.done >= self.applied:
            return True
        if not self._waiting:
            return False
        first, last = int(self._waiting[0].offsets[0]), int(self._waiting[-1].offsets[-1])
        return (first, last + 1) == (self.done, self.applied)

    def _records(self, batch: InputBatch, first: int) -> Records:
        """Return the records from offset *first* on, and move the log time on."""
        if not len(batch.offsets):
            return NONE
        offsets = np.asarray(batch.offsets, dtype=np.int64)
        skip = 0 if offsets[0] >= first else int(np.searchsorted(offsets, first))
        if skip == len(offsets):
            return NONE
        start = int(offsets[skip])
        if not self._marks or start - self._marks[-1][0] >= _MARK:
            self._marks.append((start, self.log_time))
        log_times = np.maximum.accumulate(np.asarray(batch.timestamps[skip:], dtype=np.float64))
        np.maximum(log_times, self.log_time, out=log_times)
        self.log_time = float(log_times[-1])
        if not skip:
            return Records(offsets, log_times, batch.keys, batch.values, batch.events)
        return Records(offsets[skip:], log_times, batch.keys[skip:], batch.values[skip:], batch.events[skip:])
