"""Predictions that wait by deadline, so that only those that are due are looked at."""

from collections.abc import Sequence
from heapq import heappop, heappush
from math import ceil, inf, nextafter

import numpy as np

from streamapp.core.events import Codes, Floats, Ints
from streamapp.core.joining.groups import Groups
from streamapp.core.joining.rows import Rows
from streamapp.core.joining.table import WAITS, Table

PAGES = 64
"""Pages that are looked through each time."""
ROOM = 10_000
"""Resolved predictions that may lie in the calendar whatever waits."""


def deadlines(rows: Rows, groups: Groups) -> Floats:
    """Return the log time beyond which each prediction expires."""
    codes = rows["group"]
    due: Floats = np.maximum(rows["ts"], rows["log_time"]) + groups.of(codes, "window") + groups.of(codes, "grace")
    return due


class Deadlines:
    """A calendar with a page for each second; the pages that the clock has reached are laid open, in order.

    Resolved predictions are left where they are and passed over; :meth:`compact` clears them away.

    Args:
        table: Where the predictions are.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self.soonest = inf
        """No deadline is below this."""
        self._days: dict[int, list[Codes]] = {}
        self._calendar: list[int] = []
        """Heap of the days that have a page."""
        self._open: Ints = np.empty(0, np.int64)
        """Rows of the open pages, by deadline, then by offset."""
        self._open_deadlines: Floats = np.empty(0)
        self._end = -inf
        """Where the last page ends that was laid open."""
        self.size = 0
        """Entries, those of resolved predictions included."""

    def add(self, places: Ints, due: Floats) -> None:
        """Take in predictions with their deadlines."""
        if not len(places):
            return
        days = due.astype(np.int64)
        first = int(days.min())
        kept = places.astype(np.int32)
        self.size += len(kept)
        self.soonest = min(self.soonest, float(first))
        if first == days.max():
            self._page(first).append(kept)
            return
        days -= first
        order = np.argsort(days.astype(np.uint16) if days.max() < 1 << 16 else days, kind="stable")
        days, kept = days[order], kept[order]
        starts = np.flatnonzero(np.diff(days, prepend=-1))
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(days)], strict=True):
            self._page(first + int(days[start])).append(kept[start:end])

    def due(self, clock: float, groups: Groups) -> tuple[Ints, Floats]:
        """Remove and return what waits with a deadline below *clock*, soonest first: rows and deadlines."""
        if clock <= self.soonest:
            return self._open[:0], self._open_deadlines[:0]
        self._lay_open(clock, groups)
        n = int(np.searchsorted(self._open_deadlines, clock, "left"))
        places, due = self._open[:n], self._open_deadlines[:n]
        self._open, self._open_deadlines = self._open[n:], self._open_deadlines[n:]
        self.size -= n
        self._set_soonest()
        # Since they were laid open some may have been resolved, and their rows given to others.
        waits = self._table.rows["state"][places] == WAITS
        waits[waits] = deadlines(self._table.take(places[waits]), groups) == due[waits]
        return places[waits], due[waits]

    def reach(self, clock: float, many: int, groups: Groups) -> float:
        """Return a log time up to *clock* at which no more than about *many* are due, unless they are due at once.

        It is beyond every clock up to which they have been removed.
        """
        if clock <= self.soonest or self._few(clock, many):
            return clock
        self._lay_open(clock, groups, many)
        if len(self._open) >= many:
            clock = min(clock, nextafter(float(self._open_deadlines[many - 1]), inf))
        return min(clock, float(self._calendar[0])) if self._calendar else clock

    def next(self, groups: Groups) -> float | None:
        """Return the soonest deadline, None if nothing waits."""
        self._sort([self._open], groups)
        while not len(self._open) and self._calendar:
            self._lay_open(self._calendar[0] + 1.0, groups)
        self._set_soonest()
        return float(self._open_deadlines[0]) if len(self._open) else None

    def compact(self, live: int, groups: Groups) -> None:
        """Let go of resolved predictions where they are many more than the *live* ones."""
        if self.size <= 2 * live + ROOM:
            return
        places = np.concatenate([self._open, *(part for page in self._days.values() for part in page)])
        # A row that was given to another prediction is in it twice.
        waiting = np.unique(places[self._table.rows["state"][places] == WAITS])
        self._days.clear()
        self._calendar.clear()
        self._open, self._open_deadlines = self._open[:0], self._open_deadlines[:0]
        self.size, self.soonest = 0, inf
        self.add(waiting, deadlines(self._table.take(waiting), groups))

    def _few(self, clock: float, many: int) -> bool:
        """Tell, where that is told soon, whether fewer than *many* can be due."""
        found = len(self._open)
        if self._calendar:
            first = self._calendar[0]
            if clock - first > PAGES:
                return False
            found += sum(sum(map(len, self._days.get(day, ()))) for day in range(first, ceil(clock)))
        return found < many

    def _page(self, day: int) -> list[Codes]:
        page = self._days.get(day)
        if page is None:
            page = self._days[day] = []
            heappush(self._calendar, day)
        return page

    def _lay_open(self, clock: float, groups: Groups, many: float = inf) -> None:
        """Lay open the pages that may hold deadlines below *clock*, until *many* entries lie open."""
        parts: list[Ints | Codes] = [self._open]
        found = len(self._open)
        while self._calendar and self._calendar[0] < clock and found < many:
            day = heappop(self._calendar)
            page = self._days.pop(day)
            found += sum(map(len, page))
            parts += page
            self._end = max(self._end, day + 1.0)
        if len(parts) > 1:
            self._sort(parts, groups)

    def _sort(self, parts: Sequence[Ints | Codes], groups: Groups) -> None:
        """Make some entries the open ones; take what was resolved off them."""
        places: Ints = np.concatenate(parts, dtype=np.int64)
        before = len(places)
        places = places[self._table.rows["state"][places] == WAITS]
        due = deadlines(self._table.take(places), groups)
        # A row may have been given to another prediction since: that one has an entry of its own.
        stays = due < self._end
        places, first = np.unique(places[stays], return_index=True)
        due = due[stays][first]
        order = np.lexsort((self._table.rows["offset"][places], due))
        places, due = places[order], due[order]
        self.size -= before - len(places)
        self._open, self._open_deadlines = places, due

    def _set_soonest(self) -> None:
        day = float(self._calendar[0]) if self._calendar else inf
        self.soonest = min(float(self._open_deadlines[0]), day) if len(self._open) else day
