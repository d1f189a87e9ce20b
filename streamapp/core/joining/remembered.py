"""Resolved predictions, for as long as duplicates and late shadow answers are recognised."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from streamapp.core.events import Floats, Hashes, Ints
from streamapp.core.joining.table import Rows, Table


class Remembered:
    """When rows of the table are forgotten, and those of which only the hash of their id is known.

    Args:
        table: Where the rows are.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._queues: dict[float, deque[tuple[float, Ints]]] = {}
        """By the time for which they are remembered: (largest horizon, rows), in order of time."""
        self._hashed: dict[int, list[int]] = {}
        """Rows by hash, until a record with their id is announced by :meth:`adopt`."""

    def add(self, places: Ints, horizons: Floats, remember: Floats) -> None:
        """Remember rows that were resolved; *remember* is the time for which each is."""
        low, high = float(remember.min()), float(remember.max())
        for seconds in (low,) if low == high else np.unique(remember).tolist():
            chosen = slice(None) if low == high else remember == seconds
            queue = self._queues.setdefault(seconds, deque())
            queue.append((float(horizons[chosen].max()), places[chosen]))

    def restore(self, rows: Rows) -> Ints:
        """Take rows from a checkpoint, of which only the hash of the id is known; return their places."""
        table = self._table
        places = table.room(len(rows))
        table.resolved[places] = rows
        for place, key in zip(places.tolist(), rows["id_hash"].tolist(), strict=True):
            self._hashed.setdefault(key, []).append(place)
        if len(places):
            # All in one queue, sorted: for how long they are remembered is in their horizons already.
            order = np.argsort(rows["horizon"], kind="stable")
            queue = self._queues.setdefault(-1.0, deque())
            for start in range(0, len(order), 1024):
                part = order[start : start + 1024]
                queue.append((float(rows["horizon"][part[-1]]), places[part]))
        return places

    def adopt(self, ids: Sequence[str], hashes: Hashes) -> None:
        """Announce ids of records to come, so that what is known by hash is found by id."""
        known = np.fromiter(self._hashed, dtype=np.uint64, count=len(self._hashed))
        for place in np.flatnonzero(np.isin(hashes, known)).tolist():
            for row in self._hashed.pop(int(hashes[place]), ()):
                self._table.ids[row] = ids[place]
                self._table.join_chain(ids[place], row)

    @property
    def hashed(self) -> bool:
        """Whether some are known by their hash alone."""
        return bool(self._hashed)

    def forget(self, clock: float) -> None:
        """Let go of what no record from *clock* on can ask for."""
        for seconds, queue in list(self._queues.items()):
            while queue and queue[0][0] < clock:
                _, places = queue.popleft()
                self._strike(places)
                self._table.free(places)
            if not queue:
                del self._queues[seconds]

    def _strike(self, places: Ints) -> None:
        """Take rows out of those known by hash."""
        if not self._hashed:
            return
        table = self._table
        for place, key in zip(places.tolist(), table.resolved["id_hash"][places].tolist(), strict=True):
            if table.ids[place] is None:
                rows = self._hashed[key]
                rows.remove(place)
                if not rows:
                    del self._hashed[key]
