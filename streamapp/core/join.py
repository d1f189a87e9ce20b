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
from numpy.typing import NDArray

from streamapp.core.events import Arrivals, DeadLetter, Ints, ScoredBatch
from streamapp.core.joining import results
from streamapp.core.joining.intake import InputBatch, Intake
from streamapp.core.joining.joinstate import JoinCheckpoint
from streamapp.core.joining.matching import Matching
from streamapp.core.joining.rejoin import Rejoin
from streamapp.core.joining.roster import Limits
from streamapp.core.joining.state import State
from streamapp.core.settings import Settings

__all__ = ["InputBatch", "JoinOutput", "Joiner", "Limits"]

STEP = 4096
"""Predictions that are given up before it is asked whether there is room for more."""

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
        limits: How many models and groups are counted under their own names at a time; further ones are counted as
            ``other``.

    Attributes:
        room: Bytes of results that there is room for until the next :meth:`take`, about: what leads to more is settled
            later. A log time that moves on by hours at once may end all that waits.
    """

    def __init__(
        self, partition: int, settings: Settings, *, partitions: int | None = None, limits: Limits = _LIMITS
    ) -> None:
        self._state = State(partition, settings, limits)
        self._matching = Matching(self._state, partitions)
        self._predictions = Intake()
        self._outcomes = Intake()
        self._checkpoint = JoinCheckpoint(partition)
        self._rejoin: Rejoin | None = None
        self._clock = 0.0
        """Log time before which everything is settled."""
        self.room: float = inf
        self.behind = False
        """Whether there may be something to settle that there was no room for: :meth:`advance` does, once taken."""

    # Input

    def start(self, *, predictions: int, outcomes: int) -> None:
        """Begin at these offsets; without it, and without a checkpoint, a joiner begins at 0."""
        for intake, offset in ((self._predictions, predictions), (self._outcomes, outcomes)):
            intake.applied = intake.done = offset
        self._checkpoint.bases = predictions, outcomes

    def predictions(self, batch: InputBatch) -> None:
        """Take what was fetched of ``predictions``; records before :attr:`predictions_applied` are skipped."""
        self._predictions.hand_in(batch)
        self._settle()

    def outcomes(self, batch: InputBatch) -> None:
        """Take what was fetched of ``outcomes``; records before :attr:`outcomes_applied` are skipped."""
        self._outcomes.hand_in(batch)
        self._settle()

    def advance(self, *, predictions: float | None = None, outcomes: float | None = None) -> None:
        """Take word that a partition was read to its end at a log time: all up to it, ties included, was handed in.

        Without any, settle what there was no room for.
        """
        if predictions is not None:
            self._predictions.proven = max(self._predictions.proven, predictions)
        if outcomes is not None:
            self._outcomes.proven = max(self._outcomes.proven, outcomes)
        self._settle()

    # Output

    def deadline(self) -> float | None:
        """Return the smallest log time t at which advance(predictions=t, outcomes=t) has something to say."""
        ends = [end for intake in (self._predictions, self._outcomes) if (end := intake.next) is not None]
        state = self._state
        waiting = (state.deadlines.next(state.groups), state.early.next())
        ends += [nextafter(end, inf) for end in waiting if end is not None]
        return min(ends, default=None)

    def take(self) -> JoinOutput:
        """Return everything that followed since the last time, and what a checkpoint needs to go on from here."""
        state = self._state
        state.forget_names(self._clock)
        ends = state.take_ends()
        arrivals = results.arrivals(state.take_accepted(), state.partition, state.groups)
        pending = state.groups.waiting()
        entries = self._checkpoint.changes(state, self._predictions, self._outcomes, self._clock, ends, pending)
        dead_letters = tuple(state.dead_letters)
        state.dead_letters.clear()
        counts: dict[tuple[str, str], int] = {}
        rejected: dict[tuple[str, str], int] = {}
        for tally in (state.predictions, state.outcomes):
            statuses, reasons = tally.take()
            counts.update({(tally.topic, status): n for status, n in statuses.items()})
            rejected.update({(tally.topic, reason): n for reason, n in reasons.items()})
        output = JoinOutput(
            arrivals=arrivals,
            rows=tuple(results.batches(ends, state.partition, state.groups, state.words)),
            dead_letters=dead_letters,
            counts=counts,
            rejected=rejected,
            state=entries,
            pending=pending,
        )
        state.forget(self._clock)
        return output

    @property
    def totals(self) -> dict[str, dict[str, int]]:
        """Counts by topic and status since the beginning, checkpoints included, and ``waiting`` early outcomes now.

        ``read`` counts settled records: of predictions it is accepted + rejected + duplicate, of outcomes
        accepted + rejected + duplicate + late + unmatched + waiting.
        """
        counts = {tally.topic: tally.counts() for tally in (self._state.predictions, self._state.outcomes)}
        counts["outcomes"]["waiting"] = self.waiting
        return counts

    @property
    def waiting(self) -> int:
        """How many outcomes wait for their prediction."""
        return len(self._state.early)

    @property
    def models(self) -> int:
        """How many models are known that predictions count under."""
        return len(self._state.groups.models)

    def pending(self) -> int:
        """Return how many predictions wait for their outcome."""
        return int(self._state.groups.pending.sum())

    @property
    def full(self) -> bool:
        """Whether there is no more room: nothing is settled before the next :meth:`take`."""
        return self._state.weight >= self.room

    @property
    def weight(self) -> int:
        """About how many bytes of results wait to be taken."""
        return self._state.weight

    def buffered(self) -> int:
        """Return how many records were handed in, but wait for the other topic to be read as far."""
        return len(self._predictions) + len(self._outcomes)

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

    # Settling

    def _settle(self) -> None:
        """Settle the records that nothing unread can precede, and move the clock, as far as there is room."""
        frontier, state = min(self._predictions.frontier, self._outcomes.frontier), self._state
        self.behind = True
        while self.behind and not self.full:
            clock = state.deadlines.reach(frontier, STEP, state.groups)
            predictions = self._predictions.up_to(clock)
            outcomes = self._outcomes.before_all_of(self._predictions, clock)
            self._matching.settle(predictions, outcomes, clock)
            self._clock = clock
            self.behind = clock < frontier

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
        joiner._checkpoint, waiting, copied, joiner._clock = JoinCheckpoint.restore(
            partition, entries, joiner._state, joiner._predictions, joiner._outcomes
        )
        joiner._rejoin = Rejoin(
            joiner._state, joiner._matching, waiting, copied, joiner._checkpoint.bound, allow_lost=allow_lost
        )
        return joiner

    def needs_predictions(self, offsets: Ints) -> NDArray[np.bool_]:
        """Return which records at some rising offsets are to be read again: the events of others are not looked at."""
        return self._restoring().needs_predictions(offsets) | (offsets >= self._predictions.done)

    def needs_outcomes(self, offsets: Ints) -> NDArray[np.bool_]:
        """Return which records at some rising offsets are to be read again: the events of others are not looked at."""
        return self._restoring().needs_outcomes(offsets) | (offsets >= self._outcomes.done)

    def reread_predictions(self, batch: InputBatch) -> None:
        """Take records again, without any output; those that are not needed are skipped."""
        self._restoring().predictions(self._predictions.reread(batch))

    def reread_outcomes(self, batch: InputBatch) -> None:
        """Take records again, without any output; those that are not needed are skipped."""
        self._restoring().outcomes(self._outcomes.reread(batch))

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
