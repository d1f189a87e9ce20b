"""Resolved predictions, for as long as duplicates and late shadow answers are recognised: by the hash of their id.

Nearly all that comes is new, and a filter says so. What it cannot rule out is looked up exactly.
"""

from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import Floats, Hashes, Ints
from streamapp.core.joining.hashfilter import HashFilter
from streamapp.core.joining.hashindex import HashIndex
from streamapp.core.joining.rows import Rows, chosen, joined, plain

RESOLVED = np.dtype(
    [
        ("horizon", "f8"),
        ("outcome_log_time", "f8"),
        ("outcome_offset", "i8"),
        ("id_hash", "u8"),
        ("outcome_number", "f8"),
        ("outcome_ts", "f8"),
        ("outcome_loss", "f8"),
        ("revision", "i8"),
        ("name", "i4"),
        ("outcome_kind", "u1"),
        ("outcome_source", "u1"),
        ("censored", "u1"),
        ("known", "u1"),
    ]
)
"""``horizon``: last log time at which it is remembered; ``outcome_offset``: -1 where none came; ``name``: code of the
group's own name; ``known``: whether the outcome itself is at hand."""

SEGMENT_ROWS = 1 << 18
"""Of one segment, or an eighth of all where that is more."""
SEGMENTS = 4
"""Segments that the time for which something is remembered is divided into, at least."""


class Segment:
    """Rows that are forgotten together.

    Args:
        start: Horizon of the first.
    """

    def __init__(self, start: float) -> None:
        self.start = start
        self.horizon = start
        """Largest one."""
        self.index = HashIndex()
        self._rows: Rows = np.empty(0, RESOLVED)

    def __len__(self) -> int:
        """Return how many rows it has."""
        return len(self.index)

    @property
    def rows(self) -> Rows:
        """All rows; a view, which may be changed, but for the hashes."""
        return self._rows[: len(self)]

    def add(self, rows: Rows) -> None:
        """Add rows."""
        before, count = len(self), len(self) + len(rows)
        if count > len(self._rows):
            grown = np.empty(max(count, 2 * len(self._rows)), RESOLVED)
            plain(grown)[:before] = plain(self._rows)[:before]
            self._rows = grown
        plain(self._rows)[before:count] = plain(rows)
        self.index.add(rows["id_hash"])
        self.horizon = max(self.horizon, float(rows["horizon"].max()))


class Remembered:
    """Rows of dtype :data:`RESOLVED`; several may have one hash."""

    def __init__(self) -> None:
        self._queues: dict[float, deque[Segment]] = {}
        """By the time for which they are remembered, in order of their horizons."""
        self._filter = HashFilter()
        self._count = 0

    def __len__(self) -> int:
        """Return how many rows there are."""
        return self._count

    def add(self, rows: Rows, remember: Floats) -> None:
        """Remember rows, at least one; *remember* is the time for which each is."""
        low, high = float(remember.min()), float(remember.max())
        for seconds in (low,) if low == high else np.unique(remember).tolist():
            self._add(rows if low == high else chosen(rows, remember == seconds), seconds)

    def restore(self, rows: Rows) -> None:
        """Take rows from a checkpoint."""
        # All in one queue, sorted: for how long they are remembered is in their horizons already.
        rows = chosen(rows, np.argsort(rows["horizon"], kind="stable"))
        step = max(SEGMENT_ROWS, len(rows) // SEGMENTS)
        for start in range(0, len(rows), step):
            self._add(rows[start : start + step], -1.0)

    def _add(self, rows: Rows, seconds: float) -> None:
        queue = self._queues.setdefault(seconds, deque())
        first = float(rows["horizon"][0])
        full = max(SEGMENT_ROWS, self._count // (2 * SEGMENTS))
        if not queue or len(queue[-1]) + len(rows) > full or first - queue[-1].start > seconds / SEGMENTS:
            queue.append(Segment(first))
        queue[-1].add(rows)
        self._count += len(rows)
        self._filter.add(rows["id_hash"])
        if self._filter.crowded:
            self._renew()

    def may_have(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Return which ids may be remembered, by their hashes; where it says no, none is. Shape (n,)."""
        if not self._count:
            return np.zeros(len(hashes), np.bool_)
        return self._filter.may_have(hashes)

    def find(self, hashes: Hashes) -> tuple[Ints, Rows]:
        """Return which of some hashes are remembered, by their places, and the rows beside them: each that there is."""
        places: list[Ints] = [np.empty(0, np.int64)]
        rows: list[Rows] = [np.empty(0, RESOLVED)]
        for segment in self.segments():
            found, numbers = segment.index.find(hashes)
            if len(found):
                places.append(found)
                rows.append(chosen(segment.rows, numbers))
        return np.concatenate(places), joined(rows)

    def segments(self) -> Iterator[Segment]:
        """Yield all there is."""
        for queue in self._queues.values():
            yield from queue

    def forget(self, clock: float) -> None:
        """Let go of what no record from *clock* on can ask for."""
        for seconds, queue in list(self._queues.items()):
            while queue and queue[0].horizon < clock:
                self._count -= len(queue.popleft())
            if not queue:
                del self._queues[seconds]
        if len(self._filter) > 2 * self._count + SEGMENT_ROWS:
            self._renew()

    def _renew(self) -> None:
        self._filter.renew((segment.index.hashes for segment in self.segments()), self._count)
