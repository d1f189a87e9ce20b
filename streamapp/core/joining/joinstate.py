"""The joiner's checkpoint: entries that are data only, each well below 1 MB.

- ``meta``: positions, log times and counts (:class:`Meta`);
- ``pending/<n>``, ``refused/<n>``: offsets of ``predictions`` that wait, and those of them that an outcome missed;
- ``waiting/<n>``, ``repeated/<n>``: offsets of ``outcomes`` that wait, and those of them that were not the first;
- ``resolved/<n>``: what is remembered of rows that were resolved between two commits (:class:`Delta`);
- ``groups/<n>``: how many predictions of each group wait (:class:`Waiting`);
- ``straggler/<n>``: predictions that have waited long, whole (:mod:`streamapp.core.joining.stragglers`);
- ``names/<n>``: a model that is counted under its own name, its groups, and when they were last heard of
  (:class:`streamapp.core.joining.roster.Roster`).
"""

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from streamapp.core.events import Codes, Ints, Verdict
from streamapp.core.joining.groups import Groups
from streamapp.core.joining.intake import Intake
from streamapp.core.joining.numbered import key as key_of
from streamapp.core.joining.numbered import numbered, told
from streamapp.core.joining.pages import Pages
from streamapp.core.joining.remembered import RESOLVED
from streamapp.core.joining.results import Ends
from streamapp.core.joining.rows import Rows, chosen, joined
from streamapp.core.joining.state import State
from streamapp.core.joining.stragglers import Stragglers
from streamapp.core.joining.tally import Tally
from streamapp.core.joining.words import Words, firsts
from streamapp.core.monitoring import packing
from streamapp.errors import CheckpointError

FORMAT = 4
FORMATS = (1, 2, 3, 4)
"""That can be read: 1 had neither copies nor a number of entries, 2 not when names were last heard of, 3 no clock."""
DELTA_ROWS = 8192
"""Rows of one delta, at most: 240 kB."""
DELTA_GROUPS = 512
"""Names of groups in one delta, at most: 520 kB, as names are."""
GROUPS = 128
"""Groups of one entry: 260 kB at most, as names are."""
META = b"meta"
RESOLVED_ENTRY = b"resolved/"
WAITING = b"groups/"

T = TypeVar("T", bound=Struct)


class TopicMeta(Struct, array_like=True):
    """Where the reading of one input partition stands."""

    applied: int
    """Next offset to hand in."""
    done: int
    """Next offset to settle."""
    base: int
    """Offset to read again from on restore."""
    base_log_time: float
    """Log time before ``base``."""
    log_time: float
    proven: float
    counts: dict[str, int]
    reasons: dict[str, int]


class Meta(Struct, array_like=True):
    """Everything that is one of a kind."""

    format: int
    partition: int
    predictions: TopicMeta
    outcomes: TopicMeta
    next_delta: int
    waiting_entries: int
    bound: int = 0
    """Predictions that wait below this offset are copied (:mod:`streamapp.core.joining.stragglers`)."""
    entries: int | None = None
    """How many entries there are, this one included."""
    clock: float = inf
    """Log time up to which all is settled, where that is less than what was read of both topics."""


class Delta(Struct, array_like=True):
    """Resolved rows to remember, as packed columns."""

    expires: float
    """Largest horizon."""
    lowest: int
    """Lowest outcome offset, -1 if there is none."""
    words: list[str]
    """Names of groups."""
    group: bytes
    """Place in ``words``."""
    id_hash: bytes
    horizon: bytes
    outcome_offset: bytes


class Waiting(Struct, array_like=True):
    """Pending predictions by model and group."""

    counts: list[tuple[str, str, int]]


class _Format(Struct, array_like=True):
    format: int


class JoinCheckpoint:
    """What was written last, so that only changes are written next.

    Args:
        partition: Whose checkpoint it is.
    """

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self.bases = (0, 0)
        """Oldest offsets of predictions and outcomes that a restore needs."""
        self._deltas: dict[int, tuple[float, int]] = {}
        """Stored deltas: largest horizon, lowest outcome offset."""
        self._next_delta = 0
        self._waiting: list[bytes] = []
        self._meta = b""
        self._stragglers = Stragglers()
        self._keys = {META}
        """Of all entries."""

    @property
    def bound(self) -> int:
        """Every prediction with an offset below this one is copied, if it waits."""
        return self._stragglers.bound

    def changes(
        self,
        state: State,
        predictions: Intake,
        outcomes: Intake,
        clock: float,
        ends: Ends,
        pending: Mapping[tuple[str, str], int],
    ) -> dict[bytes, bytes | None]:
        """Return the entries that changed since the last time; None removes one.

        Args:
            state: What waits.
            predictions: How far predictions were read.
            outcomes: How far outcomes were read.
            clock: Log time up to which all is settled.
            ends: What was resolved since the last time.
            pending: Pending predictions by model and group.
        """
        entries: dict[bytes, bytes | None] = {}
        for pages in state.pages:
            entries |= pages.changes()
        entries |= state.roster.changes()
        for number in [number for number, (expires, _) in self._deltas.items() if expires < clock]:
            del self._deltas[number]
            entries[key_of(RESOLVED_ENTRY, number)] = None
        for delta in _deltas(ends, state.groups):
            if delta.expires >= clock:
                entries[key_of(RESOLVED_ENTRY, self._next_delta)] = msgspec.msgpack.encode(delta)
                self._deltas[self._next_delta] = delta.expires, delta.lowest
                self._next_delta += 1
        # Sorted, so that a restart, which meets the names in another order, has nothing to write anew.
        before, self._waiting = self._waiting, _waiting(sorted((*key, n) for key, n in pending.items()))
        for number, value in enumerate(self._waiting):
            if number >= len(before) or value != before[number]:
                entries[key_of(WAITING, number)] = value
        for number in range(len(self._waiting), len(before)):
            entries[key_of(WAITING, number)] = None
        base = predictions.base(state.pending_pages.lowest(self._stragglers.bound))[0]
        entries |= self._stragglers.changes(state, predictions.done, base)
        for key, entry in entries.items():
            if entry is None:
                self._keys.discard(key)
            else:
                self._keys.add(key)
        meta = msgspec.msgpack.encode(self._describe(state, predictions, outcomes, clock))
        if meta != self._meta:
            self._meta = entries[META] = meta
        return entries

    def _describe(self, state: State, predictions: Intake, outcomes: Intake, clock: float) -> Meta:
        offsets = [lowest for _, lowest in self._deltas.values() if lowest >= 0]
        waiting = state.waiting_pages.lowest()
        lowest_outcome = min(offsets if waiting is None else [*offsets, waiting], default=None)
        meta = Meta(
            format=FORMAT,
            partition=self._partition,
            predictions=_topic_meta(predictions, state.pending_pages.lowest(self._stragglers.bound), state.predictions),
            outcomes=_topic_meta(outcomes, lowest_outcome, state.outcomes),
            next_delta=self._next_delta,
            waiting_entries=len(self._waiting),
            bound=self._stragglers.bound,
            entries=len(self._keys),
            clock=clock if clock < min(predictions.frontier, outcomes.frontier) else inf,
        )
        self.bases = meta.predictions.base, meta.outcomes.base
        return meta

    @classmethod
    def restore(
        cls,
        partition: int,
        entries: Mapping[bytes, bytes],
        state: State,
        predictions: Intake,
        outcomes: Intake,
    ) -> tuple["JoinCheckpoint", dict[tuple[str, str], int], Ints, float]:
        """Fill what is fresh with what the entries say, short of the events themselves.

        Returns:
            The checkpoint, how many predictions waited by model and group, the offsets of those that were copied, and
            the log time up to which all is settled.

        Raises:
            CheckpointError: The entries are incomplete, broken, or of another partition or format.
        """
        checkpoint = cls(partition)
        meta = _decode_meta(entries, partition)
        checkpoint._meta = entries[META]
        checkpoint._keys = set(entries)
        checkpoint._next_delta = meta.next_delta
        checkpoint.bases = meta.predictions.base, meta.outcomes.base
        _restore_topic(predictions, state.predictions, meta.predictions)
        _restore_topic(outcomes, state.outcomes, meta.outcomes)
        state.pending_pages = Pages.restore("pending", entries)
        state.refused_pages = Pages.restore("refused", entries)
        state.waiting_pages = Pages.restore("waiting", entries)
        state.repeated_pages = Pages.restore("repeated", entries)
        clock = min(predictions.frontier, outcomes.frontier, meta.clock)
        state.roster.restore(entries, clock)
        waiting: dict[tuple[str, str], int] = {}
        for number in range(meta.waiting_entries):
            key = key_of(WAITING, number)
            if key not in entries:
                raise CheckpointError(f"checkpoint of partition {partition} has no entry {key.decode()!r}")
            checkpoint._waiting.append(entries[key])
            waiting.update({(model, name): n for model, name, n in _decode(key, entries[key], Waiting).counts})
        resolved: list[Rows] = [np.empty(0, RESOLVED)]
        for number, key in numbered(entries, RESOLVED_ENTRY):
            delta = _decode(key, entries[key], Delta)
            checkpoint._deltas[number] = delta.expires, delta.lowest
            rows = _resolved(key, delta, state.groups.names)
            resolved.append(chosen(rows, rows["horizon"] >= clock))
        state.remembered.restore(joined(resolved))
        copied = checkpoint._stragglers.restore(state, entries, meta.bound)
        if meta.entries is not None and meta.entries != len(entries):
            raise CheckpointError(
                f"checkpoint of partition {partition} has {len(entries)} entries, expected {meta.entries};"
                f" what is there: {told(entries)}"
            )
        if len(state.pending_pages) != sum(waiting.values()):
            raise CheckpointError(
                f"checkpoint of partition {partition} has {len(state.pending_pages)} offsets that wait, but counts "
                f"{sum(waiting.values())}: it is broken"
            )
        return checkpoint, waiting, copied, clock


def _decode(key: bytes, data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"checkpoint entry {key.decode(errors='replace')!r} cannot be read: {error}") from error


def _decode_meta(entries: Mapping[bytes, bytes], partition: int) -> Meta:
    data = entries.get(META)
    if data is None:
        raise CheckpointError(f"checkpoint of partition {partition} has {len(entries)} entries, but no 'meta'")
    found = _decode(META, data, _Format).format
    if found not in FORMATS:
        raise CheckpointError(
            f"checkpoint of partition {partition} has format {found}, expected one of {', '.join(map(str, FORMATS))}"
        )
    meta = _decode(META, data, Meta)
    if meta.partition != partition:
        raise CheckpointError(f"checkpoint is of partition {meta.partition}, expected {partition}")
    return meta


def _deltas(ends: Ends, groups: Groups) -> Iterator[Delta]:
    """Yield what to remember of ends, those that are remembered equally long together."""
    settings = chosen(groups.settings, ends.rows["group"])
    kept = ends.verdict != Verdict.LOST
    for seconds in np.unique(settings["remember"][kept]).tolist():
        rows = np.flatnonzero(kept & (settings["remember"] == seconds))
        names = settings["name"][rows]
        step = DELTA_ROWS if len(np.unique(names)) <= DELTA_GROUPS else DELTA_GROUPS
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            yield _delta(ends, part, names[start : start + step], groups.names)


def _delta(ends: Ends, rows: Ints, names: Codes, words: Words) -> Delta:
    """Return what to remember of some ends, by their places; *names* are the codes of their groups."""
    codes, places = firsts(names, len(words))
    horizon, outcome_offset = ends.horizon[rows], ends.outcomes["offset"][rows]
    matched = outcome_offset[outcome_offset >= 0]
    return Delta(
        expires=float(horizon.max()),
        lowest=int(matched.min()) if len(matched) else -1,
        words=[str(words[code]) for code in codes.tolist()],
        group=packing.pack(places.astype(np.int64)),
        id_hash=packing.pack(ends.rows["id_hash"][rows]),
        horizon=packing.pack(horizon),
        outcome_offset=packing.pack(outcome_offset),
    )


def _resolved(key: bytes, delta: Delta, names: Words) -> Rows:
    """Return the rows of a delta, in their order, without the outcomes themselves."""
    group, id_hash = packing.ints(delta.group), packing.hashes(delta.id_hash)
    horizon, offset = packing.floats(delta.horizon), packing.ints(delta.outcome_offset)
    if not len(group) == len(id_hash) == len(horizon) == len(offset) or (
        len(group) and not 0 <= group.min() <= group.max() < len(delta.words)
    ):
        raise CheckpointError(f"checkpoint entry {key.decode()!r} has columns that do not fit")
    rows = np.zeros(len(group), RESOLVED)
    rows["horizon"], rows["id_hash"], rows["outcome_offset"] = horizon, id_hash, offset
    rows["name"] = np.array([names.code(word) for word in delta.words], dtype=np.int32)[group] if len(group) else 0
    return rows


def _waiting(groups: Sequence[tuple[str, str, int]]) -> list[bytes]:
    """Return the values of ``groups/0``, ``groups/1``, ..."""
    parts = (list(groups[start : start + GROUPS]) for start in range(0, len(groups), GROUPS))
    return [msgspec.msgpack.encode(Waiting(counts=part)) for part in parts]


def _topic_meta(intake: Intake, lowest: int | None, tally: Tally) -> TopicMeta:
    base, base_log_time = intake.base(lowest)
    return TopicMeta(
        applied=intake.applied,
        done=intake.done,
        base=base,
        base_log_time=base_log_time,
        log_time=intake.log_time,
        proven=intake.proven,
        counts=tally.counts(),
        reasons=dict(tally.reasons),
    )


def _restore_topic(intake: Intake, tally: Tally, meta: TopicMeta) -> None:
    intake.applied, intake.done = meta.applied, meta.done
    intake.log_time, intake.proven = meta.log_time, meta.proven
    intake.rewind(meta.base, meta.base_log_time)
    tally.restore(meta.counts, meta.reasons)
