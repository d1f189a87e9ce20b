"""Predictions that wait and those that are remembered: rows of one table, found by prediction_id.

A prediction keeps its row from its arrival until it is forgotten. While it waits, the row holds what it said
(:data:`PENDING`); once it is resolved, the same bytes hold what is remembered of its end (:data:`RESOLVED`).
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import Ints

Rows = NDArray[Any]
"""Of dtype :data:`PENDING` or :data:`RESOLVED`, shape (n,)."""

WAITS = 1
ENDED = 2
"""Values of ``state``; 0: the row is free."""

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
same id and came next, -1 for none; ``linked``: several rows have this id; ``refused``: an outcome did not belong."""

RESOLVED = np.dtype(
    {
        "names": [
            "horizon",
            "outcome_log_time",
            "outcome_offset",
            "id_hash",
            "outcome_number",
            "outcome_ts",
            "outcome_loss",
            "name",
            "next",
            "revision",
            "outcome_kind",
            "outcome_source",
            "censored",
            "known",
            "state",
            "linked",
        ],
        "formats": ["f8", "f8", "i8", "u8", "f8", "f8", "f8", "i4", "i4", "i8", "u1", "u1", "u1", "u1", "u1", "u1"],
        "offsets": [0, 8, 16, 24, 32, 40, 48, 56, 60, 64, 72, 73, 74, 75, 77, 79],
        "itemsize": PENDING.itemsize,
    }
)
"""``horizon``: last log time at which it is remembered; ``outcome_offset``: -1 where none came; ``name``: code of the
group's own name; ``known``: whether the outcome itself is at hand."""

_WHOLE = np.dtype((np.void, PENDING.itemsize))
FIRST = 1024
"""Rows of a new table."""


class Table:
    """Rows by number, and for each id the first of its rows; the others follow by ``next``, lowest offset first."""

    def __init__(self) -> None:
        self.rows: Rows = np.zeros(FIRST, PENDING)
        self.resolved: Rows = self.rows.view(RESOLVED)
        """The same bytes."""
        self.ids: NDArray[np.object_] = np.empty(FIRST, np.object_)
        """prediction_id by row; None where only its hash is known."""
        self.features: NDArray[np.object_] = np.empty(FIRST, np.object_)
        """JSON as bytes, of what waits."""
        self.scores: NDArray[np.object_] | None = None
        """Probabilities by class or None, of what waits; no column before any prediction gave them."""
        self.by_id: dict[str, int] = {}
        """First row of each id."""
        self.live = 0
        """Rows in use."""
        self._marks: NDArray[np.int32] = np.empty(FIRST, np.int32)
        """Room for :meth:`distinct`."""
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

    def put(self, rows: Rows, ids: Sequence[str], features: Sequence[bytes], scores: Sequence[Any] | None) -> Ints:
        """Add predictions whose ids the table does not have, each another; return their rows."""
        places = self.fill(rows, ids, features, scores)
        self.by_id.update(zip(ids, places.tolist(), strict=True))
        return places

    def fill(self, rows: Rows, ids: Sequence[str], features: Sequence[bytes], scores: Sequence[Any] | None) -> Ints:
        """Add predictions that cannot be found by their ids yet; return their rows."""
        places = self.room(len(ids))
        self.rows.view(_WHOLE)[places] = rows.view(_WHOLE)
        self.ids[places] = ids
        self.features[places] = features
        if scores is not None:
            if self.scores is None:
                self.scores = np.empty(len(self.rows), np.object_)
            self.scores[places] = _objects(scores)
        return places

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
        # numpy copies a row of many fields field by field; as plain bytes it is six times as fast.
        return self.rows.view(_WHOLE).take(places).view(PENDING)

    def distinct(self, places: Ints) -> bool:
        """Return whether no row comes twice among some; -1 may."""
        numbers = np.arange(len(places), dtype=np.int32)
        self._marks[places] = numbers
        return bool(((self._marks[places] == numbers) | (places < 0)).all())

    def resolve(self, places: Ints, rows: Rows) -> None:
        """Let rows, of dtype :data:`RESOLVED`, stand where predictions were that waited."""
        self.rows.view(_WHOLE)[places] = rows.view(_WHOLE)
        self.features[places] = None
        if self.scores is not None:
            self.scores[places] = None

    def free(self, places: Ints) -> None:
        """Let rows go, with their ids."""
        linked = self.rows["linked"][places] != 0
        alone = places
        if linked.any():
            for place in places[linked].tolist():
                self._unlink(place)
            alone = places[~linked]
        ids = self.ids[alone].tolist()
        if None in ids:
            ids = [prediction_id for prediction_id in ids if prediction_id is not None]
        deque(map(self.by_id.__delitem__, ids), maxlen=0)
        self.ids[places] = None
        self.rows["state"][places] = 0
        self.live -= len(places)
        self._free.append(places)

    def waiting(self) -> Ints:
        """Return the rows of all that wait."""
        return np.flatnonzero(self.rows["state"][: self._end] == WAITS)

    def ended(self) -> Ints:
        """Return the rows of all that are remembered."""
        return np.flatnonzero(self.rows["state"][: self._end] == ENDED)

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
        rows.view(_WHOLE)[: len(self.rows)] = self.rows.view(_WHOLE)
        self.rows, self.resolved = rows, rows.view(RESOLVED)
        self._marks = np.empty(size, np.int32)
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
