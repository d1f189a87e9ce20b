"""Predictions that have waited long, copied into the checkpoint, so that a restore need not read the log from there.

Every prediction that waits with an offset below :attr:`Stragglers.bound` has its copy, and the log is read again from
the oldest of the others. An entry ``straggler/<n>`` stays as it was written until nothing of it waits any more.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import compress

import msgspec
import numpy as np
from msgspec import Struct

from streamapp.core.events import Ints, Kind
from streamapp.core.hashing import hash64
from streamapp.core.joining.numbered import key, numbered
from streamapp.core.joining.rows import Rows
from streamapp.core.joining.runs import floats, label_columns
from streamapp.core.joining.state import State
from streamapp.core.joining.table import PENDING
from streamapp.core.settings import Label
from streamapp.errors import CheckpointError

PREFIX = b"straggler/"
SPAN = 4
"""Records between the base and the end of what was settled, per prediction that waits there, before any is copied."""
ROWS = 512
"""Of one entry, at most."""
COPIED = 4096
"""Rows copied at one commit, at most."""
BYTES = 240_000
"""Of one entry, about; a prediction that is larger is not copied, nor any after it, until it is resolved."""
TOGETHER = 32
"""Entries that are put back at a time."""
LOOKED_AT = 8
"""Entries of which it is asked, at one commit, whether anything still waits."""


class Straggler(Struct, array_like=True, gc=False):
    """A prediction that waits."""

    offset: int
    log_time: float
    ts: float
    prediction_id: str
    model: str
    group: str
    prediction: Label | None
    score: float | None
    latency: float | None
    version: str | None
    series: str | None
    unit: str | None
    table: dict[str, float] | None
    features: bytes


class Stragglers:
    """Which predictions are copied, and where."""

    def __init__(self) -> None:
        self.bound = 0
        self._entries: dict[int, Ints] = {}
        """Offsets by number of the entry."""
        self._next = 0
        self._looked_at = 0

    def changes(self, state: State, settled: int, base: int) -> dict[bytes, bytes | None]:
        """Copy what has waited long where it pays; return the entries that changed, None for those to be removed.

        Args:
            state: What waits; the offsets that wait are up to date.
            settled: Next offset to be settled: what is read beyond it may wait as well, but nobody knows yet.
            base: Offset from which a restore would read again.
        """
        entries: dict[bytes, bytes | None] = {}
        for number in self._done(state):
            del self._entries[number]
            entries[key(PREFIX, number)] = None
        span = settled - base
        copied = sum(map(len, self._entries.values()))
        if span > state.limits.reread and span > SPAN * (int(state.groups.pending.sum()) - copied):
            entries |= self._copy(state, base + span // 2)
        return entries

    def _done(self, state: State) -> list[int]:
        numbers = list(self._entries)
        start = self._looked_at
        chosen = (numbers[start:] + numbers[:start])[:LOOKED_AT]
        self._looked_at = (start + len(chosen)) % max(len(numbers), 1)
        return [number for number in chosen if not state.pending_pages.holds(self._entries[number]).any()]

    def _copy(self, state: State, end: int) -> dict[bytes, bytes | None]:
        places = state.table.waiting()
        offsets = state.table.rows["offset"][places]
        chosen = (offsets >= self.bound) & (offsets < end)
        places, offsets = places[chosen], offsets[chosen]
        order = np.argsort(offsets)
        whole = len(order) <= COPIED
        places, offsets = places[order[:COPIED]], offsets[order[:COPIED]]
        entries: dict[bytes, bytes | None] = {}
        copied = 0
        for rows in _parts(_stragglers(state, places)):
            value = msgspec.msgpack.encode(rows)
            if len(value) > 2 * BYTES:
                whole = False
                break
            self._entries[self._next] = offsets[copied : copied + len(rows)]
            entries[key(PREFIX, self._next)] = value
            self._next += 1
            copied += len(rows)
        if whole:
            self.bound = end
        elif copied:
            self.bound = int(offsets[copied - 1]) + 1
        return entries

    def restore(self, state: State, entries: Mapping[bytes, bytes], bound: int) -> Ints:
        """Put copies of what waits into the table; return their offsets.

        Raises:
            CheckpointError: An entry cannot be read.
        """
        self.bound = bound
        found: list[Ints] = [np.empty(0, np.int64)]
        copies = numbered(entries, PREFIX)
        self._next = copies[-1][0] + 1 if copies else 0
        for start in range(0, len(copies), TOGETHER):
            rows: list[Straggler] = []
            some = copies[start : start + TOGETHER]
            for number, name in some:
                part = _decode(name, entries[name])
                self._entries[number] = np.array([row.offset for row in part], dtype=np.int64)
                rows += part
            # Of a later entry, every offset is higher.
            offsets = np.concatenate([self._entries[number] for number, _ in some])
            waits = state.pending_pages.holds(offsets)
            _put(state, list(compress(rows, waits.tolist())))
            found.append(offsets[waits])
        return np.concatenate(found)


def _decode(name: bytes, value: bytes) -> list[Straggler]:
    try:
        return _decoder.decode(value)
    except (ValueError, msgspec.DecodeError) as error:
        raise CheckpointError(f"checkpoint entry {name.decode()!r} cannot be read: {error}") from error


_decoder = msgspec.msgpack.Decoder(list[Straggler])


def _parts(rows: Sequence[Straggler]) -> Iterator[list[Straggler]]:
    """Cut rows into entries."""
    part: list[Straggler] = []
    size = 0
    for row in rows:
        more = len(row.features) + 4 * len(row.prediction_id) + 100 * len(row.table or ()) + 2000
        if part and (size + more > BYTES or len(part) == ROWS):
            yield part
            part, size = [], 0
        part.append(row)
        size += more
    if part:
        yield part


def _stragglers(state: State, places: Ints) -> list[Straggler]:
    table, words, groups = state.table, state.words, state.groups
    rows = table.take(places)
    made = []
    for place, row in zip(places.tolist(), rows, strict=True):
        model, group = groups.pairs[row["group"]]
        number = float(row["number"])
        answer: Label | None = None
        if row["kind"] == Kind.STRING:
            answer = words.label[int(number)]
        elif row["kind"] != Kind.NONE:
            answer = bool(number) if row["kind"] == Kind.BOOL else number
        made.append(
            Straggler(
                offset=int(row["offset"]),
                log_time=float(row["log_time"]),
                ts=float(row["ts"]),
                prediction_id=table.ids[place],
                model=model,
                group=group,
                prediction=answer,
                score=_given(row["score"]),
                latency=_given(row["latency"]),
                version=words.version[row["version"]],
                series=words.series[row["series"]],
                unit=words.unit[row["unit"]],
                table=None if table.scores is None else table.scores[place],
                features=table.features[place],
            )
        )
    return made


def _given(number: float) -> float | None:
    return None if np.isnan(number) else float(number)


def _put(state: State, stragglers: Sequence[Straggler]) -> None:
    if not stragglers:
        return
    words = state.words
    rows: Rows = np.zeros(len(stragglers), PENDING)
    ids = [row.prediction_id for row in stragglers]
    rows["offset"] = [row.offset for row in stragglers]
    rows["log_time"] = floats([row.log_time for row in stragglers])
    rows["ts"] = floats([row.ts for row in stragglers])
    rows["id_hash"] = hash64([prediction_id.encode() for prediction_id in ids])
    rows["kind"], rows["number"] = label_columns([row.prediction for row in stragglers], words.label)
    rows["score"] = floats([row.score for row in stragglers])
    rows["latency"] = floats([row.latency for row in stragglers])
    models, groups = [row.model for row in stragglers], [row.group for row in stragglers]
    rows["group"] = state.groups.again(models, groups, rows["offset"])
    rows["version"] = words.version.codes([row.version for row in stragglers])
    rows["series"] = words.series.codes([row.series for row in stragglers])
    rows["unit"] = words.unit.codes([row.unit for row in stragglers])
    rows["next"] = -1
    rows["refused"] = state.refused_pages.holds(rows["offset"].copy())
    tables = [row.table for row in stragglers]
    given = None if tables.count(None) == len(tables) else tables
    state.wait_again(rows, ids, [row.features for row in stragglers], given)
