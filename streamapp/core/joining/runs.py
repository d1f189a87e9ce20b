"""Records that are settled together, as columns, and those among them that are no events."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import SOURCES, Bytes, Floats, Hashes, Ints, Kind, Outcome, Prediction
from streamapp.core.hashing import Keys, hash64
from streamapp.core.hashing import partitions as partitions_of
from streamapp.core.joining.groups import kind, label_number
from streamapp.core.joining.intake import FUTURE, Records
from streamapp.core.joining.rows import Rows
from streamapp.core.joining.table import PENDING
from streamapp.core.joining.words import Vocabularies, Words
from streamapp.core.settings import Label
from streamapp.errors import DecodeError

REVISIONS = 1 << 62
"""Revisions beyond this count as this one."""

OUTCOME = np.dtype(
    [
        ("ts", "f8"),
        ("log_time", "f8"),
        ("offset", "i8"),
        ("number", "f8"),
        ("loss", "f8"),
        ("revision", "i8"),
        ("kind", "u1"),
        ("source", "u1"),
        ("censored", "u1"),
    ]
)
"""What a row of ``scored`` has of its outcome; ``number``, ``kind``: the truth."""

Truth = tuple[float, float, int, float, float, int, int, int, int]
"""The fields of one such row."""

_SOURCE_CODES = {source: code for code, source in enumerate(SOURCES)}


Fault = tuple[int, DecodeError]
"""A record that is no event of its topic, or none that may count: its place among the records, and why."""


@dataclass(slots=True)
class Run:
    """Good records of one topic in order, shape (n,), and the bad ones between them."""

    records: Records
    """All of them."""
    places: Ints | None
    """Which of them are good; None: all."""
    faults: list[Fault]
    offsets: Ints
    log_times: Floats
    events: Sequence[Any]
    ids: list[str]
    ts: Floats
    partition: int
    """Where they come from."""
    partitions: int | None
    """How many there are; None: nobody looks at the keys."""
    names: Keys
    """The ids as bytes."""
    keyed: bool
    """Whether every key is the id."""
    _strays: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def hashes(self) -> Hashes:
        """Return the hashes of the ids, shape (n,)."""
        return hash64(self.names)

    def strays(self) -> NDArray[np.bool_] | None:
        """Return whose key is not the id or belongs elsewhere; None: nobody looks."""
        if self.partitions is None:
            return None
        if self._strays is None:
            self._strays = partitions_of(self.names, self.partitions) != self.partition
            if not self.keyed:
                keys = [self.records.keys[self.place(row)] for row in range(len(self))]
                pairs = zip(keys, self.ids, strict=True)
                self._strays |= np.array([key != wanted.encode() for key, wanted in pairs], dtype=np.bool_)
        return self._strays

    def stray(self, row: int) -> bool:
        """Return whether that is so for one of them."""
        strays = self.strays()
        return strays is not None and bool(strays[row])

    def place(self, row: int) -> int:
        """Return which of the records a good one is."""
        return row if self.places is None else int(self.places[row])


def run(records: Records, event: type[Any], partition: int, partitions: int | None) -> Run:
    """Return records as columns.

    Args:
        records: In order.
        event: What they are.
        partition: Where they come from.
        partitions: How many there are; None: do not look at the keys.

    Raises:
        TypeError: An event is of another topic.
    """
    faults: list[Fault] = []
    offsets, log_times, keys = records.offsets, records.log_times, records.keys
    events: Sequence[Any] = records.events
    places: Ints | None = None
    types = set(map(type, events))
    if types - {event}:
        strangers = types - {event, DecodeError}
        if strangers:
            raise TypeError(f"expected an event of this topic or DecodeError, got {strangers.pop().__name__}")
        faults = [(place, found) for place, found in enumerate(events) if found.__class__ is DecodeError]
        good = np.ones(len(events), dtype=np.bool_)
        good[[place for place, _ in faults]] = False
        places = np.flatnonzero(good)
        events = [found for found in events if found.__class__ is event]
    ts = floats([found.ts for found in events])
    ahead = ts > (log_times if places is None else log_times[places]) + FUTURE
    if ahead.any():
        before = np.arange(len(records)) if places is None else places
        for row in np.flatnonzero(ahead).tolist():
            place = int(before[row])
            faults.append((place, _future(events[row].ts, float(log_times[place]))))
        places, ts = before[~ahead], ts[~ahead]
        events = list(compress(events, (~ahead).tolist()))
    if places is not None:
        offsets, log_times = offsets[places], log_times[places]
        keys = [keys[place] for place in places.tolist()]
    ids = [found.prediction_id for found in events]
    names, keyed = _names(ids, keys)
    return Run(records, places, faults, offsets, log_times, events, ids, ts, partition, partitions, names, keyed)


def _names(ids: Sequence[str], keys: Sequence[bytes | None]) -> tuple[Keys, bool]:
    """Return ids as bytes, and whether they are the keys."""
    try:
        given = Keys.of(keys)  # type: ignore[arg-type]
    except TypeError:  # there is a record without a key
        given = None
    # Together: one by one takes several times as long.
    if given is not None and "".join(ids).encode() == given.bytes:
        sizes = list(map(len, ids))
        if sizes == given.sizes:
            return given, True
    encoded = [key.encode() for key in ids]
    return Keys.of(encoded), list(keys) == encoded


def prediction_rows(run: Run, codes: Any, hashes: Hashes, words: Vocabularies) -> Rows:
    """Return predictions as rows of the table, shape (n,).

    Args:
        run: At least one prediction.
        codes: Of their groups, shape (n,).
        hashes: Of their ids, likewise.
        words: What strings have their codes from.
    """
    events: Sequence[Prediction] = run.events
    rows = np.empty(len(run), PENDING)
    rows["ts"], rows["log_time"], rows["offset"], rows["id_hash"] = run.ts, run.log_times, run.offsets, hashes
    rows["kind"], rows["number"] = label_columns([p.prediction for p in events], words.label)
    rows["score"] = scalars([p.scores for p in events])
    rows["latency"] = floats([p.latency for p in events])
    rows["group"] = codes
    rows["version"] = words.version.codes([p.version for p in events])
    rows["series"] = words.series.codes([p.series for p in events])
    rows["unit"] = words.unit.codes([p.unit for p in events])
    rows["state"], rows["refused"], rows["linked"], rows["next"] = 0, 0, 0, -1
    return rows


def tables(run: Run) -> list[dict[str, float] | None] | None:
    """Return the predictions' probabilities by class; None where nobody gave any."""
    scores = [p.scores for p in run.events]
    if dict not in set(map(type, scores)):
        return None
    return [table if isinstance(table, dict) else None for table in scores]


def features(run: Run) -> list[bytes]:
    """Return the predictions' features, each as bytes of its own."""
    return [bytes(p.features) for p in run.events]


def outcome_rows(run: Run, labels: Words) -> Rows:
    """Return outcomes as rows of :data:`OUTCOME`, shape (n,), n > 0."""
    events: Sequence[Outcome] = run.events
    rows = np.empty(len(run), OUTCOME)
    rows["ts"], rows["log_time"], rows["offset"] = run.ts, run.log_times, run.offsets
    rows["kind"], rows["number"] = label_columns([o.outcome for o in events], labels)
    rows["loss"] = floats([o.loss for o in events])
    sources = [o.source for o in events]
    alone = sources.count(sources[0]) == len(sources)
    rows["source"] = _SOURCE_CODES[sources[0]] if alone else [_SOURCE_CODES[source] for source in sources]
    rows["censored"] = _given([o.status for o in events])
    revisions = [o.revision for o in events]
    rows["revision"] = 0 if not any(revisions) else list(map(_revision, revisions))
    return rows


def truth(outcome: Outcome, offset: int, log_time: float, labels: Words) -> Truth:
    """Return one outcome as a row of :data:`OUTCOME`."""
    return (
        float(outcome.ts),  # type: ignore[arg-type]  # the codec made it a float
        log_time,
        offset,
        label_number(outcome.outcome, labels),
        _NAN if outcome.loss is None else outcome.loss,
        _revision(outcome.revision),
        kind(outcome.outcome),
        _SOURCE_CODES[outcome.source],
        outcome.status is not None,
    )


def no_outcomes(n: int) -> Rows:
    """Return rows that stand for outcomes that never came, shape (n,)."""
    rows = np.zeros(n, OUTCOME)
    rows["ts"] = rows["log_time"] = rows["number"] = rows["loss"] = np.nan
    rows["offset"] = -1
    return rows


def label_columns(block: Sequence[Label | None], labels: Words) -> tuple[Bytes | int, Floats]:
    """Return kinds and numbers of labels; for a word, the number is its code."""
    types = set(map(type, block))
    if len(types) == 1:
        only = kind(block[0])
        if only == Kind.STRING:
            return only, labels.codes(block).astype(np.float64)  # type: ignore[arg-type]
        return only, floats(block)
    kinds = np.array([kind(label) for label in block], dtype=np.uint8)
    words = labels.codes([label if isinstance(label, str) else None for label in block])
    numbers = floats([None if isinstance(label, str) else label for label in block])
    return kinds, np.where(kinds == Kind.STRING, words, numbers)


def floats(block: Sequence[Any]) -> Floats:
    """Return numbers and bools as floats, None as nan."""
    missing = block.count(None)
    if missing == len(block):
        return np.full(missing, np.nan)
    if missing:
        block = [_NAN if value is None else value for value in block]
    # Twice as fast as numpy's own way through a sequence of floats.
    return np.frombuffer(struct.pack(f"{len(block)}d", *block))


_NAN = float("nan")


def scalars(block: Sequence[Any]) -> Floats:
    """Return scalar scores, nan for None and for probabilities by class."""
    if dict in set(map(type, block)):
        block = [None if isinstance(scores, dict) else scores for scores in block]
    return floats(block)


def _revision(number: int) -> int:
    return max(-REVISIONS, min(number, REVISIONS))


def _given(block: Sequence[Any]) -> Any:
    """Return which values are not None."""
    return 0 if block.count(None) == len(block) else [value is not None for value in block]


def _future(ts: float, log_time: float) -> DecodeError:
    text = f"expected a ts at most {FUTURE:g} s after the record's log time {log_time!r}, got {ts!r} - at `$.ts`"
    return DecodeError(text, reason="future")
