"""Pending predictions by deadline, so that only those that are due are looked at."""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from math import inf

from msgspec import Struct

from streamapp.core.events import Prediction
from streamapp.core.joining.groups import Group

GONE = Prediction(prediction_id="", model="", ts=0.0)
"""Stands where a prediction was."""


class Pending(Struct, gc=False):
    """A prediction that waits for its outcome."""

    prediction: Prediction
    """:data:`GONE` once it is resolved: whoever still holds the rest lets it go."""
    offset: int
    log_time: float
    group: Group
    refused: bool = False
    """An outcome of this id came that did not belong."""

    def deadline(self) -> float:
        """Return the log time beyond which it expires."""
        ts: float = self.prediction.ts  # type: ignore[assignment]  # the codec made it a float
        return (ts if ts > self.log_time else self.log_time) + self.group.window + self.group.grace


class Deadlines:
    """A calendar of deadlines in days of one second, with the current day as a heap.

    Resolved predictions are left where they are and passed over; :meth:`compact` clears them away.
    """

    def __init__(self) -> None:
        self.soonest = inf
        """No deadline is below this."""
        self._days: dict[int, list[Pending]] = {}
        self._calendar: list[int] = []
        """Heap of the days that have a list."""
        self._today: list[tuple[float, int, Pending]] = []
        """Heap of (deadline, offset, pending) of all days up to ``_day``."""
        self._day = -1
        self._size = 0

    def add(self, pending: Pending) -> float:
        """Take in a prediction and return its deadline."""
        ts: float = pending.prediction.ts  # type: ignore[assignment]  # the codec made it a float
        log_time, group = pending.log_time, pending.group
        deadline = (ts if ts > log_time else log_time) + group.window + group.grace
        day = int(deadline)
        self._size += 1
        entries = self._days.get(day)
        if entries is not None:
            entries.append(pending)
        elif day > self._day:
            self._days[day] = [pending]
            heappush(self._calendar, day)
            self.soonest = min(self.soonest, float(day))
        else:
            heappush(self._today, (deadline, pending.offset, pending))
            self.soonest = min(self.soonest, deadline)
        return deadline

    def due(self, clock: float) -> Iterator[tuple[float, Pending]]:
        """Remove and yield (deadline, pending) where the deadline is below *clock*, soonest first, then by offset."""
        while self._open(clock):
            deadline, _, pending = self._today[0]
            if deadline >= clock:
                break
            heappop(self._today)
            self._size -= 1
            yield deadline, pending
        self.soonest = self._bound()

    def next(self) -> float | None:
        """Return the soonest deadline, None if nothing is pending."""
        if not self._open(inf):
            return None
        self.soonest = self._bound()
        return self._today[0][0]

    def compact(self, live: int) -> None:
        """Let go of resolved predictions where they are many more than the *live* ones."""
        if self._size <= 2 * live + 10_000:
            return
        self._today = [item for item in self._today if item[2].prediction is not GONE]
        heapify(self._today)
        for day, entries in list(self._days.items()):
            kept = [pending for pending in entries if pending.prediction is not GONE]
            if kept:
                self._days[day] = kept
            else:
                del self._days[day]
        self._calendar = sorted(self._days)
        self._size = len(self._today) + sum(map(len, self._days.values()))

    def _open(self, clock: float) -> bool:
        """Bring the soonest unresolved prediction to the front of today; False if none can be below *clock*."""
        while True:
            while self._today and self._today[0][2].prediction is GONE:
                heappop(self._today)
                self._size -= 1
            if self._today:
                return True
            if not self._calendar or self._calendar[0] >= clock:
                return False
            self._day = heappop(self._calendar)
            entries = self._days.pop(self._day)
            self._size -= len(entries)
            for pending in entries:
                if pending.prediction is not GONE:
                    self._today.append((pending.deadline(), pending.offset, pending))
            heapify(self._today)
            self._size += len(self._today)

    def _bound(self) -> float:
        """Return a bound below every deadline."""
        if self._today:
            return self._today[0][0]
        return float(self._calendar[0]) if self._calendar else inf
