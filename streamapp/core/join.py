"""The joiner: each prediction meets its outcome, or waits until it cannot come any more.

Records of the two input partitions are settled in one order, by log time, predictions before outcomes at ties. A
record is settled once the other partition is known up to its log time, by what was read from it or by a proof that its
end was reached; until then it waits in a buffer. So what comes out depends on the two logs alone, not on how reading
them was interleaved or cut into batches.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, nextafter

import numpy as np

from streamapp.core.events import Arrivals, DeadLetter, Names, ScoredBatch
from streamapp.core.hashing import partitions as partitions_of
from streamapp.core.joining.intake import InputBatch, Intake
from streamapp.core.joining.joinstate import JoinCheckpoint
from streamapp.core.joining.matching import Matching
from streamapp.core.joining.rejoin import Rejoin
from streamapp.core.joining.roster import Limits
from streamapp.core.settings import Settings
from streamapp.errors import DecodeError

__all__ = ["InputBatch", "JoinOutput", "Joiner", "Limits"]

_LIMITS = Limits()


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
    """(topic, status): see :mod:`streamapp.core.joining.tally`; no zeros."""
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
        limits: How many models and groups are counted under their own names; further ones are counted as ``other``.
    """

    def __init__(
        self, partition: int, settings: Settings, *, partitions: int | None = None, limits: Limits = _LIMITS
    ) -> None:
        self._partition = partition
        self._partitions = partitions
        self._matching = Matching(partition, settings, limits)
        self._predictions = Intake()
        self._outcomes = Intake()
        self._misplaced: tuple[set[int], set[int]] = set(), set()
        self._checkpoint = JoinCheckpoint(partition)
        self._rejoin: Rejoin | None = None

    # Input

    def start(self, *, predictions: int, outcomes: int) -> None:
        """Begin at these offsets; without it, and without a checkpoint, a joiner begins at 0."""
        for intake, offset in ((self._predictions, predictions), (self._outcomes, outcomes)):
            intake.applied = intake.done = offset
        self._checkpoint.bases = predictions, outcomes

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
        rows: list[tuple[ScoredBatch, Names]] = []
        for resolved in matching.resolved.values():
            rows += resolved.take()
        matching.resolved.clear()
        pending = {key: group.pending for key, group in matching.groups.items() if group.pending}
        state = self._checkpoint.changes(matching, self._predictions, self._outcomes, rows, pending)
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
            rows=tuple(batch for batch, _ in rows),
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
        counts["outcomes"]["waiting"] = self.waiting
        return counts

    @property
    def waiting(self) -> int:
        """How many outcomes wait for their prediction."""
        return len(self._matching.early)

    def pending(self) -> int:
        """Return how many predictions wait for their outcome."""
        return sum(group.pending for group in self._matching.groups.values())

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
        """Offset to read ``predictions`` again from if restored now, as of the last :meth:`take`.

        Where the log begins later, read from its beginning.
        """
        return self._checkpoint.bases[0]

    @property
    def outcomes_applied(self) -> int:
        """Next offset of ``outcomes`` to hand in."""
        return self._outcomes.applied

    @property
    def outcomes_base(self) -> int:
        """Offset to read ``outcomes`` again from; as :attr:`predictions_base`."""
        return self._checkpoint.bases[1]

    @property
    def predictions_log_time(self) -> float | None:
        """Log time up to which ``predictions`` are known; None before the first record or proof."""
        return self._predictions.frontier or None

    @property
    def outcomes_log_time(self) -> float | None:
        """Log time up to which ``outcomes`` are known; None before the first record or proof."""
        return self._outcomes.frontier or None

    @property
    def log_time(self) -> float | None:
        """Log time before which everything is settled; None until both topics are known to some."""
        return self._clock or None

    @property
    def _clock(self) -> float:
        return min(self._predictions.frontier, self._outcomes.frontier)

    # Settling

    def _hand_in(self, intake: Intake, batch: InputBatch, misplaced: set[int]) -> None:
        first = intake.applied
        intake.hand_in(batch)
        self._announce(batch, first, intake.applied, misplaced)
        self._settle()

    def _announce(self, batch: InputBatch, first: int, end: int, misplaced: set[int]) -> None:
        """Look at the ids of a whole batch at once, from offset *first* to before *end*."""
        offsets, keys, events = batch.offsets, batch.keys, batch.events
        if not len(offsets) or offsets[-1] < first:
            return
        if offsets[0] < first or offsets[-1] >= end or DecodeError in set(map(type, events)):
            chosen = [
                place
                for place, (offset, event) in enumerate(zip(offsets, events, strict=True))
                if first <= offset < end and not isinstance(event, DecodeError)
            ]
            offsets = [offsets[place] for place in chosen]
            keys = [keys[place] for place in chosen]
            events = [events[place] for place in chosen]
        ids = [event.prediction_id for event in events]  # type: ignore[union-attr]  # errors are left out
        self._matching.remembered.adopt(ids)
        if self._partitions is None:
            return
        expected = [prediction_id.encode() for prediction_id in ids]
        strays = partitions_of(expected, self._partitions) != self._partition
        if keys != expected:
            strays |= np.array([key != wanted for key, wanted in zip(keys, expected, strict=True)], dtype=np.bool_)
        misplaced.update(offsets[place] for place in np.flatnonzero(strays).tolist())

    def _settle(self) -> None:
        """Settle, in their order, the records that nothing unread can precede; then move the clock."""
        matching = self._matching
        predictions, outcomes = self._predictions, self._outcomes
        first, second = predictions.buffer, outcomes.buffer
        first_strays, second_strays = self._misplaced
        sizes = len(first), len(second)
        while True:
            limit = second[0][1] if second else outcomes.frontier
            while first and (log_time := first[0][1]) <= limit:
                if log_time > matching.soonest:
                    matching.move(log_time)
                record = first.popleft()
                matching.predict(record, record[0] in first_strays)
            if not second:
                break
            # Above the next prediction none of the outcomes can be settled; without one, what was read decides.
            limit = first[0][1] if first else inf
            if limit <= second[0][1] or not (first or predictions.has_all(second[0][1])):
                break
            while second and (log_time := second[0][1]) < limit and (first or predictions.has_all(log_time)):
                if log_time > matching.soonest:
                    matching.move(log_time)
                record = second.popleft()
                matching.observe(record, record[0] in second_strays)
        matching.predictions.read += sizes[0] - len(first)
        matching.outcomes.read += sizes[1] - len(second)
        for intake, strays in ((predictions, first_strays), (outcomes, second_strays)):
            intake.done = intake.buffer[0][0] if intake.buffer else intake.applied
            if strays:
                strays.difference_update([offset for offset in strays if offset < intake.done])
        clock = self._clock
        if clock > matching.soonest:
            matching.move(clock)
        matching.fold()

    # Taking

    def _take_arrivals(self) -> tuple[Arrivals, ...]:
        arrived = self._matching.arrived
        arrivals = tuple(
            Arrivals(
                model=model,
                partition=self._partition,
                log_time=max(group.arrived_at for group in groups.values()),
                groups=tuple(group.arrived.take(name) for name, group in groups.items()),
            )
            for model, groups in arrived.items()
        )
        arrived.clear()
        return arrivals

    def _let_go(self, pending: Mapping[tuple[str, str], int]) -> None:
        """Forget what nothing can ask for any more."""
        matching = self._matching
        matching.remembered.forget(self._clock)
        matching.deadlines.compact(sum(pending.values()))
        if len(matching.groups) > 2 * len(pending) + 1000:
            matching.groups = {key: group for key, group in matching.groups.items() if group.pending}
            matching.models = {group.model: group.rows for group in matching.groups.values()}

    # Restoring

    @classmethod
    def restore(
        cls,
        partition: int,
        settings: Settings,
        entries: Mapping[bytes, bytes],
        *,
        partitions: int | None = None,
        limits: Limits = _LIMITS,
        allow_lost: bool = False,
    ) -> "Joiner":
        """Return a joiner that stands where the entries of a checkpoint were taken.

        It is complete once both topics were read again: hand the records from ``predictions_base`` to
        ``predictions_applied`` to :meth:`reread_predictions`, then those of outcomes to :meth:`reread_outcomes`, then
        call :meth:`restored`.

        Args:
            partition: As of the constructor; likewise settings and partitions.
            settings: See there.
            entries: Every entry of the checkpoint.
            partitions: See there.
            limits: See there.
            allow_lost: Give pending predictions that retention removed the verdict LOST, rather than refuse.

        Raises:
            CheckpointError: The entries are incomplete, broken, or of another partition or format.
        """
        joiner = cls(partition, settings, partitions=partitions, limits=limits)
        joiner._checkpoint, waiting = JoinCheckpoint.restore(
            partition, entries, joiner._matching, joiner._predictions, joiner._outcomes
        )
        joiner._rejoin = Rejoin(partition, joiner._matching, waiting, allow_lost=allow_lost)
        return joiner

    def reread_predictions(self, batch: InputBatch) -> None:
        """Take records again, without any output; those that are not needed are skipped."""
        intake = self._predictions
        self._announce(batch, intake.done, intake.applied, self._misplaced[0])
        self._restoring().predictions(intake, batch)

    def reread_outcomes(self, batch: InputBatch) -> None:
        """Take records again, without any output; those that are not needed are skipped."""
        intake = self._outcomes
        self._announce(batch, 0, intake.applied, self._misplaced[1])
        self._restoring().outcomes(intake, batch, self._misplaced[1])

    def restored(self) -> None:
        """End the restore: everything between base and applied was read again.

        Raises:
            CheckpointError: Records that are needed were not among it, and ``allow_lost`` is off.
        """
        self._restoring().end(self._clock, {"predictions": self._predictions, "outcomes": self._outcomes})
        self._rejoin = None
        self._settle()

    def _restoring(self) -> Rejoin:
        if self._rejoin is None:
            raise RuntimeError("this joiner is not being restored")
        return self._rejoin
