"""The joiner: each prediction meets its outcome, or waits until it cannot come any more.

Records of the two input partitions are settled in one order, by log time, predictions before outcomes at ties. A
record is settled once the other partition is known up to its log time, by what was read from it or by a proof that its
end was reached; until then it waits in a buffer. So what comes out depends on the two logs alone, not on how reading
them was interleaved or cut into batches.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, nextafter

import msgspec

from streamapp.core import columns, joinstate
from streamapp.core.early import Early
from streamapp.core.events import Arrivals, DeadLetter, Outcome, Prediction, ScoredBatch, Verdict
from streamapp.core.hashing import partitions as partitions_of
from streamapp.core.intake import InputBatch, Intake
from streamapp.core.joinstate import Delta, Meta, TopicMeta
from streamapp.core.matching import Matching
from streamapp.core.pages import Pages
from streamapp.core.remembered import Resolved
from streamapp.core.settings import Settings
from streamapp.core.tally import Tally
from streamapp.errors import CheckpointError, DecodeError

__all__ = ["InputBatch", "JoinOutput", "Joiner"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinOutput:
    """What followed since the last :meth:`Joiner.take`."""

    arrivals: tuple[Arrivals, ...]
    """By model, in order of the first arrival."""
    rows: tuple[ScoredBatch, ...]
    """By model, in order of the first row; a model whose rows name very many classes has several."""
    dead_letters: tuple[DeadLetter, ...]
    """In the order in which they were settled; ``topic`` is ``predictions`` or ``outcomes``."""
    counts: dict[tuple[str, str], int]
    """(topic, status): see :data:`streamapp.core.tally.STATUSES`; no zeros."""
    rejected: dict[tuple[str, str], int]
    """(topic, reason); no zeros."""
    state: dict[bytes, bytes | None]
    """Checkpoint entries that changed; None removes one."""
    pending: dict[tuple[str, str], int]
    """(model, group): predictions that wait now; no zeros."""


class Joiner:
    """Match each prediction of one partition with the outcome that has the same prediction_id.

    Time is event time and log time: the joiner reads no clock.

    Args:
        partition: Number of the partition, of both topics.
        settings: Settings of the models.
        partitions: How many partitions the topics have, to count records whose key is not their prediction_id or
            whose key belongs elsewhere as ``misplaced``; None: do not look.
        allow_lost: Give pending predictions that retention removed the verdict LOST, rather than refuse to restore.
    """

    def __init__(
        self, partition: int, settings: Settings, *, partitions: int | None = None, allow_lost: bool = False
    ) -> None:
        self._partition = partition
        self._partitions = partitions
        self._allow_lost = allow_lost
        self._matching = Matching(partition, settings)
        self._predictions = Intake()
        self._outcomes = Intake()
        self._misplaced: tuple[set[int], set[int]] = set(), set()
        self._deltas: dict[int, tuple[float, int]] = {}
        """Stored deltas: largest horizon, lowest outcome offset."""
        self._next_delta = 0
        self._group_entries: list[bytes] = []
        self._meta = b""
        self._stored_waiting: dict[tuple[str, str], int] = {}
        self._found: tuple[set[int], set[int]] = set(), set()
        self._matched: dict[int, list[Resolved]] = {}

    # Input

    def start(self, *, predictions: int, outcomes: int) -> None:
        """Begin at these offsets; without it, and without a checkpoint, a joiner begins at 0."""
        for intake, offset in ((self._predictions, predictions), (self._outcomes, outcomes)):
            intake.applied = intake.done = offset

    def predictions(self, batch: InputBatch) -> None:
        """Take what was fetched of ``predictions``; records before :attr:`predictions_applied` are skipped."""
        self._hand_in(self._predictions, batch, self._misplaced[0])

    def outcomes(self, batch: InputBatch) -> None:
        """Take what was fetched of ``outcomes``; records before :attr:`outcomes_applied` are skipped."""
        self._hand_in(self._outcomes, batch, self._misplaced[1])

    def advance(self, *, predictions: float | None = None, outcomes: float | None = None) -> None:
        """Take word that a partition was read to its end at a log time: all up to it, ties included, was handed in."""
        if predictions is not None:
            self._predictions.proven = max(self._predictions.proven, predictions)
        if outcomes is not None:
            self._outcomes.proven = max(self._outcomes.proven, outcomes)
        self._settle()

    # Output

    def deadline(self) -> float | None:
        """Return the smallest log time t at which advance(predictions=t, outcomes=t) has something to say."""
        ends = [intake.buffer[0][1] for intake in (self._predictions, self._outcomes) if intake.buffer]
        waiting = (self._matching.deadlines.next(), self._matching.early.next())
        ends += [nextafter(end, inf) for end in waiting if end is not None]
        return min(ends, default=None)

    def take(self) -> JoinOutput:
        """Return everything that followed since the last time, and what a checkpoint needs to go on from here."""
        matching = self._matching
        arrivals = self._take_arrivals()
        rows: list[ScoredBatch] = []
        for resolved in matching.resolved:
            rows += columns.scored(resolved.model, self._partition, resolved.rows)
            resolved.rows.clear()
        matching.resolved.clear()
        pending = {key: group.pending for key, group in matching.groups.items() if group.pending}
        state = self._state(rows, pending)
        dead_letters = tuple(matching.dead_letters)
        matching.dead_letters.clear()
        counts: dict[tuple[str, str], int] = {}
        rejected: dict[tuple[str, str], int] = {}
        for tally in (matching.predictions, matching.outcomes):
            statuses, reasons = tally.take()
            counts.update({(tally.topic, status): n for status, n in statuses.items()})
            rejected.update({(tally.topic, reason): n for reason, n in reasons.items()})
        self._let_go(pending)
        return JoinOutput(
            arrivals=arrivals,
            rows=tuple(rows),
            dead_letters=dead_letters,
            counts=counts,
            rejected=rejected,
            state=state,
            pending=pending,
        )

    @property
    def totals(self) -> dict[str, dict[str, int]]:
        """Counts by topic and status since the beginning, checkpoints included, and ``waiting`` early outcomes now.

        ``read`` counts settled records: of predictions it is accepted + rejected + duplicate, of outcomes
        accepted + rejected + duplicate + late + unmatched + waiting.
        """
        counts = {tally.topic: tally.counts() for tally in (self._matching.predictions, self._matching.outcomes)}
        counts["outcomes"]["waiting"] = len(self._matching.early)
        return counts

    def pending(self) -> int:
        """Return how many predictions wait for their outcome."""
        return self._matching.pending

    def buffered(self) -> int:
        """Return how many records were handed in, but wait for the other topic to be read as far."""
        return len(self._predictions.buffer) + len(self._outcomes.buffer)

    # Positions

    @property
    def predictions_applied(self) -> int:
        """Next offset of ``predictions`` to hand in."""
        return self._predictions.applied

    @property
    def predictions_base(self) -> int:
        """Offset of ``predictions`` to read again from on restore; where the log begins later, read from there."""
        return self._predictions.base(self._matching.pending_pages.lowest())[0]

    @property
    def outcomes_applied(self) -> int:
        """Next offset of ``outcomes`` to hand in."""
        return self._outcomes.applied

    @property
    def outcomes_base(self) -> int:
        """Offset of ``outcomes`` to read again from on restore; where the log begins later, read from there."""
        return self._outcomes.base(self._lowest_outcome())[0]

    @property
    def predictions_log_time(self) -> float:
        """Log time up to which ``predictions`` are known; 0.0 before the first record or proof."""
        return self._predictions.frontier

    @property
    def outcomes_log_time(self) -> float:
        """Log time up to which ``outcomes`` are known; 0.0 before the first record or proof."""
        return self._outcomes.frontier

    @property
    def log_time(self) -> float:
        """Log time up to which both are known: everything before it is settled."""
        return min(self._predictions.frontier, self._outcomes.frontier)

    # Settling

    def _hand_in(self, intake: Intake, batch: InputBatch, misplaced: set[int]) -> None:
        first = intake.applied
        intake.hand_in(batch)
        self._announce(batch, first, misplaced)
        self._settle()

    def _announce(self, batch: InputBatch, first: int, misplaced: set[int]) -> None:
        """Look at the ids of a whole batch at once, from offset *first* on."""
        events = [
            (offset, key, event.prediction_id)
            for offset, key, event in zip(batch.offsets, batch.keys, batch.events, strict=True)
            if offset >= first and not isinstance(event, DecodeError)
        ]
        if not events:
            return
        offsets, keys, ids = zip(*events, strict=True)
        self._matching.remembered.adopt(ids)
        if self._partitions is not None:
            expected = [prediction_id.encode() for prediction_id in ids]
            at_home = (partitions_of(expected, self._partitions) == self._partition).tolist()
            misplaced.update(
                offset
                for offset, key, wanted, home in zip(offsets, keys, expected, at_home, strict=True)
                if not home or key != wanted
            )

    def _settle(self) -> None:
        """Settle, in their order, the records that nothing unread can precede; then move the clock."""
        predictions, outcomes = self._predictions, self._outcomes
        strays, strays_out = self._misplaced
        matching = self._matching
        first, second = predictions.buffer, outcomes.buffer
        while True:
            limit = second[0][1] if second else outcomes.frontier
            while first and first[0][1] <= limit:
                record = first.popleft()
                if record[1] > matching.soonest:
                    matching.move(record[1])
                matching.predict(record, record[0] in strays)
                predictions.done = record[0] + 1
            if not second:
                break
            limit = first[0][1] if first else inf
            settled = False
            while second and second[0][1] < limit and (first or predictions.has_all(second[0][1])):
                record = second.popleft()
                if record[1] > matching.soonest:
                    matching.move(record[1])
                matching.observe(record, record[0] in strays_out)
                outcomes.done = record[0] + 1
                settled = True
            if not settled:
                break
        for intake, misplaced in zip((predictions, outcomes), self._misplaced, strict=True):
            if misplaced:
                misplaced.difference_update([offset for offset in misplaced if offset < intake.done])
        clock = self.log_time
        if clock > matching.soonest:
            matching.move(clock)

    # Taking

    def _take_arrivals(self) -> tuple[Arrivals, ...]:
        models: dict[str, list[int]] = {}
        groups = self._matching.arrived
        for place, group in enumerate(groups):
            models.setdefault(group.model, []).append(place)
        arrivals = tuple(
            columns.arrivals(
                model,
                self._partition,
                max(groups[place].arrived_at for place in places),
                {groups[place].name: groups[place].arrived for place in places},
            )
            for model, places in models.items()
        )
        for group in groups:
            group.arrived = []
        groups.clear()
        return arrivals

    def _let_go(self, pending: Mapping[tuple[str, str], int]) -> None:
        """Forget what nothing can ask for any more."""
        matching = self._matching
        matching.remembered.forget(self.log_time)
        matching.deadlines.compact(matching.pending)
        if len(matching.groups) > 2 * len(pending) + 1000:
            matching.groups = {key: group for key, group in matching.groups.items() if group.pending}
            matching.models = {group.model: group.rows for group in matching.groups.values()}

    def _state(self, rows: Sequence[ScoredBatch], pending: Mapping[tuple[str, str], int]) -> dict[bytes, bytes | None]:
        """Return the checkpoint entries that changed."""
        matching = self._matching
        entries: dict[bytes, bytes | None] = {}
        for pages in (
            matching.pending_pages,
            matching.refused_pages,
            matching.waiting_pages,
            matching.repeated_pages,
        ):
            entries |= pages.changes()
        clock = self.log_time
        for number in [number for number, (expires, _) in self._deltas.items() if expires < clock]:
            del self._deltas[number]
            entries[_delta_key(number)] = None
        for batch in rows:
            for delta in joinstate.deltas(batch, matching.group(batch.model, batch.group.words[0])):
                if delta.expires >= clock:
                    entries[_delta_key(self._next_delta)] = msgspec.msgpack.encode(delta)
                    self._deltas[self._next_delta] = delta.expires, delta.lowest
                    self._next_delta += 1
        before, now = self._group_entries, joinstate.group_entries([(*key, n) for key, n in pending.items()])
        for number in range(max(len(before), len(now))):
            old, new = (values[number] if number < len(values) else None for values in (before, now))
            if old != new:
                entries[_group_key(number)] = new
        self._group_entries = now
        meta = msgspec.msgpack.encode(self._describe())
        if meta != self._meta:
            self._meta = entries[joinstate.META] = meta
        return entries

    def _describe(self) -> Meta:
        return Meta(
            format=joinstate.FORMAT,
            partition=self._partition,
            predictions=_topic_meta(
                self._predictions, self._matching.pending_pages.lowest(), self._matching.predictions
            ),
            outcomes=_topic_meta(self._outcomes, self._lowest_outcome(), self._matching.outcomes),
            next_delta=self._next_delta,
            next_groups=len(self._group_entries),
        )

    def _lowest_outcome(self) -> int | None:
        """Return the lowest offset of ``outcomes`` that waits or is remembered."""
        offsets = [lowest for _, lowest in self._deltas.values() if lowest >= 0]
        waiting = self._matching.waiting_pages.lowest()
        return min(offsets if waiting is None else [*offsets, waiting], default=None)

    # Restoring

    @classmethod
    def restore(
        cls,
        partition: int,
        settings: Settings,
        entries: Mapping[bytes, bytes],
        *,
        partitions: int | None = None,
        allow_lost: bool = False,
    ) -> "Joiner":
        """Return a joiner that stands where the entries of a checkpoint were taken.

        It is complete once both topics were read again: hand the records from ``predictions_base`` to
        ``predictions_applied`` to :meth:`reread_predictions`, then those of outcomes to :meth:`reread_outcomes`, then
        call :meth:`restored`.

        Raises:
            CheckpointError: The entries are incomplete, broken, or of another partition or format.
        """
        meta = joinstate.decode_meta(entries, partition)
        joiner = cls(partition, settings, partitions=partitions, allow_lost=allow_lost)
        joiner._meta = entries[joinstate.META]
        joiner._next_delta = meta.next_delta
        matching = joiner._matching
        _restore_topic(joiner._predictions, matching.predictions, meta.predictions)
        _restore_topic(joiner._outcomes, matching.outcomes, meta.outcomes)
        matching.pending_pages = Pages.restore("pending", entries)
        matching.refused_pages = Pages.restore("refused", entries)
        matching.waiting_pages = Pages.restore("waiting", entries)
        matching.repeated_pages = Pages.restore("repeated", entries)
        for number in range(meta.next_groups):
            key = _group_key(number)
            data = entries.get(key)
            if data is None:
                raise CheckpointError(f"checkpoint of partition {partition} has no entry {key.decode()!r}")
            joiner._group_entries.append(data)
            for model, name, n in joinstate.decode(key, data, joinstate.Waiting).counts:
                joiner._stored_waiting[model, name] = n
        joiner._restore_deltas(entries)
        return joiner

    def _restore_deltas(self, entries: Mapping[bytes, bytes]) -> None:
        keys = [key for key in entries if key.startswith(_DELTA)]
        try:
            for key in sorted(keys, key=lambda key: int(key.removeprefix(_DELTA))):
                delta = joinstate.decode(key, entries[key], Delta)
                self._deltas[int(key.removeprefix(_DELTA))] = delta.expires, delta.lowest
                for resolved in joinstate.resolved(delta):
                    if resolved.horizon >= self.log_time:
                        self._matching.remembered.restore(resolved)
        except (ValueError, IndexError) as error:
            raise CheckpointError(f"remembered rows of the checkpoint cannot be read: {error}") from error
        for resolved in self._matching.remembered.matched():
            self._matched.setdefault(resolved.outcome_offset, []).append(resolved)

    def reread_predictions(self, batch: InputBatch) -> None:
        """Take records again, without any output; those that are not needed are skipped."""
        matching, intake = self._matching, self._predictions
        self._announce_again(batch, intake, self._misplaced[0])
        for offset, log_time, _, _, prediction in intake.reread(batch):
            if offset in matching.pending_pages and isinstance(prediction, Prediction):
                self._found[0].add(offset)
                group = matching.group(prediction.model, prediction.group)
                found = matching.found(prediction.prediction_id)
                pending = matching.wait(prediction, offset, log_time, group, found)
                pending.refused = offset in matching.refused_pages
                matching.expect(pending)

    def reread_outcomes(self, batch: InputBatch) -> None:
        """Take records again, without any output; those that are not needed are skipped."""
        matching, intake = self._matching, self._outcomes
        misplaced = set[int]()
        self._announce_again(batch, intake, misplaced)
        for offset, log_time, key, value, outcome in intake.reread(batch):
            if not isinstance(outcome, Outcome):
                continue
            for resolved in self._matched.get(offset, ()):
                resolved.outcome, resolved.outcome_log_time = outcome, log_time
            if offset in matching.waiting_pages:
                self._found[1].add(offset)
                repeated = offset in matching.repeated_pages
                matching.keep(Early(outcome, offset, log_time, key, value, offset in misplaced, repeated))
        self._misplaced[1].update(offset for offset in misplaced if offset >= intake.done)

    def _announce_again(self, batch: InputBatch, intake: Intake, misplaced: set[int]) -> None:
        self._announce(batch, 0, misplaced)
        misplaced.difference_update([offset for offset in misplaced if offset >= intake.applied])

    def restored(self) -> None:
        """End the restore: everything between base and applied was read again.

        Raises:
            CheckpointError: Offsets that are needed were not among it, and ``allow_lost`` is off.
        """
        matching = self._matching
        lost = [offset for offset in matching.pending_pages if offset not in self._found[0]]
        gone = [offset for offset in matching.waiting_pages if offset not in self._found[1]]
        for topic, missing in (("predictions", lost), ("outcomes", gone)):
            if missing and not self._allow_lost:
                raise CheckpointError(
                    f"{len(missing)} records that the checkpoint waits for are not in {topic} "
                    f"{self._partition} any more: offsets {_some(missing)}"
                )
        self._lose(lost)
        for offset in gone:
            matching.waiting_pages.discard(offset)
            matching.outcomes.unmatched += 1
            matching.outcomes.lost += 1
        self._found, self._matched, self._stored_waiting = (set(), set()), {}, {}
        self._settle()

    def _lose(self, offsets: Sequence[int]) -> None:
        """Give predictions that cannot be read any more their verdict.

        Their content is gone, so their times are the log time of now. How many there are of each group is known, and
        which offsets they had; which offset was of which group is not.
        """
        matching = self._matching
        remaining = iter(offsets)
        for (model, name), n in self._stored_waiting.items():
            group = matching.group(model, name)
            for _ in range(n - group.pending):
                offset = next(remaining, None)
                if offset is None:
                    return
                now = self.log_time
                prediction = Prediction(prediction_id="", model=model, group=name, ts=now)
                matching.pending_pages.discard(offset)
                matching.predictions.lost += 1
                if not group.rows.rows:
                    matching.resolved.append(group.rows)
                group.rows.rows.append(
                    (prediction, offset, now, Verdict.LOST, columns.NO_OUTCOME, -1, float("nan"))
                )


_DELTA = b"resolved/"


def _delta_key(number: int) -> bytes:
    return _DELTA + str(number).encode()


def _group_key(number: int) -> bytes:
    return f"groups/{number}".encode()


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


def _some(offsets: Sequence[int]) -> str:
    """Return the first few offsets as text."""
    text = ", ".join(map(str, offsets[:10]))
    return f"{text}, ..., {offsets[-1]}" if len(offsets) > 10 else text


def entries_of(batch: InputBatch) -> Iterator[int]:
    """Yield the offsets of a batch."""
    yield from batch.offsets
