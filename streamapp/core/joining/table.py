"""Predictions that wait: rows of one table, found by prediction_id."""

from collections.abc import Sequence
from itertools import compress, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import Ints
from streamapp.core.joining.rows import Rows, chosen, plain

WAITS = 1
"""Value of ``state``; 0: the row is free, or was just taken."""

PENDING = np.dtype(
    [
        ("ts", "f8"),
        ("log_time", "f8"),
        ("offset", "i8"),
        ("id_hash", "u8"),
        ("number", "f8"),
        ("score", "f8"),
        ("latency", "f8"),
        ("group", "i4"),
        ("next", "i4"),
        ("version", "i4"),
        ("series", "i4"),
        ("unit", "i4"),
        ("kind", "u1"),
        ("state", "u1"),
        ("refused", "u1"),
        ("linked", "u1"),
    ]
)
"""``number``, ``kind``: the answer; ``group``, ``version``, ``series``, ``unit``: codes; ``next``: the row that has the
same id and came next, -1 for none; ``linked``: several rows had this id; ``refused``: an outcome did not belong."""

FIRST = 1024
"""Rows of a new table."""


class Table:
    """Rows by number, and for each id the first of its rows; the others follow by ``next``, lowest offset first."""

    def __init__(self) -> None:
        self.rows: Rows = np.zeros(FIRST, PENDING)
        self.ids: NDArray[np.object_] = np.empty(FIRST, np.object_)
        """prediction_id by row."""
        self.features: NDArray[np.object_] = np.empty(FIRST, np.object_)
        """JSON as bytes."""
        self.scores: NDArray[np.object_] | None = None
        """Probabilities by class or None; no column before any prediction gave them."""
        self.by_id: dict[str, int] = {}
        """First row of each id."""
        self.live = 0
        """Rows in use."""
        self._free: list[Ints] = []
        self._end = 0
        """No row from here on was ever in use."""

    def room(self, n: int) -> Ints:
        """Return *n* free rows, now in use."""
        self.live += n
        taken: list[Ints] = []
        while n and self._free:
            part = self._free.pop()
            if len(part) > n:
                self._free.append(part[n:])
                part = part[:n]
            taken.append(part)
            n -= len(part)
        if n:
            taken.append(np.arange(self._end, self._end + n))
            self._end += n
            if self._end > len(self.rows):
                self._grow(max(self._end, 2 * len(self.rows)))
        return taken[0] if len(taken) == 1 else np.concatenate(taken)

    def claim(self, ids: Sequence[str]) -> tuple[Ints, set[str]]:
        """Return rows for predictions, and those of the ids that come more than once or wait already.

        The others find their rows from now on; :meth:`renounce` takes that back.
        """
        places = self.room(len(ids))
        numbers = places.tolist()
        firsts = list(map(self.by_id.setdefault, ids, numbers))
        if firsts == numbers:
            return places, set()
        taken = {key for key, number, first in zip(ids, numbers, firsts, strict=True) if number != first}
        mine = set(numbers)
        for key in taken:
            if self.by_id[key] in mine:
                del self.by_id[key]
        return places, taken

    def renounce(self, ids: Sequence[str], places: Ints, mask: NDArray[np.bool_]) -> Ints:
        """Let go of those of the claimed rows that a mask says, and return the others."""
        for key, place in zip(compress(ids, mask.tolist()), places[mask].tolist(), strict=True):
            if self.by_id.get(key) == place:
                del self.by_id[key]
        self._let_go(places[mask])
        return places[~mask]

    def put(
        self, places: Ints, rows: Rows, ids: Sequence[str], features: Sequence[bytes], scores: Sequence[Any] | None
    ) -> None:
        """Say which predictions stand in some rows."""
        plain(self.rows)[places] = plain(rows)
        self.ids[places] = ids
        self.features[places] = features
        if scores is not None:
            if self.scores is None:
                self.scores = np.empty(len(self.rows), np.object_)
            self.scores[places] = _objects(scores)

    def draw(self, ids: Sequence[str]) -> Ints:
        """Return the first row of each id, no longer found by it, -1 where there is none (any more); shape (n,)."""
        return np.fromiter(map(self.by_id.pop, ids, repeat(-1)), dtype=np.int64, count=len(ids))

    def give_back(self, ids: Sequence[str], places: Ints) -> None:
        """Let rows be found again that were drawn; -1 says that none was."""
        self.by_id.update((key, place) for key, place in zip(ids, places.tolist(), strict=True) if place >= 0)

    def join_chain(self, prediction_id: str, place: int) -> None:
        """Put a row behind the others of its id."""
        first = self.by_id.setdefault(prediction_id, place)
        if first != place:
            last = self.chain(prediction_id)[-1]
            self.rows["next"][last] = place
            self.rows["linked"][[first, last, place]] = 1

    def chain(self, prediction_id: str) -> list[int]:
        """Return all rows of an id, lowest offset first."""
        place = self.by_id.get(prediction_id, -1)
        found = []
        following = self.rows["next"]
        while place >= 0:
            found.append(place)
            place = int(following[place])
        return found

    def take(self, places: Ints) -> Rows:
        """Return a copy of rows."""
        return chosen(self.rows, places)

    def unlink(self, places: Ints) -> None:
        """Let rows no longer be found by their ids."""
        linked = self.rows["linked"][places] != 0
        alone = places
        if linked.any():
            for place in places[linked].tolist():
                self._unlink(place)
            alone = places[~linked]
        for key in self.ids[alone].tolist():
            del self.by_id[key]

    def free(self, places: Ints) -> None:
        """Let rows go that are not found by their ids any more."""
        self.ids[places] = None
        self.features[places] = None
        if self.scores is not None:
            self.scores[places] = None
        self.rows["state"][places] = 0
        self._let_go(places)

    def _let_go(self, places: Ints) -> None:
        self.live -= len(places)
        self._free.append(places)

    def waiting(self) -> Ints:
        """Return the rows of all that wait."""
        return np.flatnonzero(self.rows["state"][: self._end] == WAITS)

    def _unlink(self, place: int) -> None:
        prediction_id = self.ids[place]
        chain = self.chain(prediction_id)
        index = chain.index(place)
        following = int(self.rows["next"][place])
        if index:
            self.rows["next"][chain[index - 1]] = following
        elif following >= 0:
            self.by_id[prediction_id] = following
        else:
            del self.by_id[prediction_id]

    def _grow(self, size: int) -> None:
        rows = np.zeros(size, PENDING)
        plain(rows)[: len(self.rows)] = plain(self.rows)
        self.rows = rows
        for column in (self.ids, self.features) if self.scores is None else (self.ids, self.features, self.scores):
            # Where they are, they grow in place: a copy would touch every object. Nobody keeps a view of them.
            before = len(column)
            column.resize(size, refcheck=False)
            column[before:] = None


def _objects(values: Sequence[Any]) -> NDArray[np.object_]:
    """Return values as a column of objects, also where they have a length."""
    column = np.empty(len(values), np.object_)
    column[:] = values
    return column
