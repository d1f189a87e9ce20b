"""Outcomes that came before their prediction, until one comes or they are unmatched."""

from collections import deque
from math import inf

from msgspec import Struct

from streamapp.core.events import Outcome


class Early(Struct, gc=False):
    """An outcome that waits for a prediction, with its bytes: it may yet become a dead letter."""

    outcome: Outcome
    offset: int
    log_time: float
    key: bytes | None
    value: bytes | None
    misplaced: bool
    repeated: bool
    """Another of the same id was waiting when it came."""
    gone: bool = False


class EarlyOutcomes:
    """Early outcomes by id and in the order of their log times.

    Args:
        grace: Log time for which an outcome is kept for predictions.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.soonest = inf
        """No outcome is unmatched before the clock is beyond this."""
        self.by_id: dict[str, Early | deque[Early]] = {}
        """Changed by the methods alone."""
        self._queue: deque[Early] = deque()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def add(self, early: Early) -> None:
        """Keep an outcome; log times must not fall."""
        prediction_id = early.outcome.prediction_id
        others = self.by_id.get(prediction_id)
        if others is None:
            self.by_id[prediction_id] = early
        elif isinstance(others, Early):
            self.by_id[prediction_id] = deque((others, early))
        else:
            others.append(early)
        self._queue.append(early)
        self._waiting += 1
        self.soonest = min(self.soonest, early.log_time + self.grace)

    def take(self, prediction_id: str) -> list[Early]:
        """Remove and return the outcomes of an id, in order of offset."""
        found = self.by_id.pop(prediction_id)
        entries = [found] if isinstance(found, Early) else list(found)
        for early in entries:
            early.gone = True
        self._waiting -= len(entries)
        if len(self._queue) > 2 * self._waiting + 10_000:
            self._queue = deque(early for early in self._queue if not early.gone)
        return entries

    def unmatched(self, clock: float) -> list[Early]:
        """Remove and return the outcomes that no prediction can claim any more, in order of offset."""
        entries = []
        while (soonest := self.next()) is not None and soonest < clock:
            early = self._queue.popleft()
            entries.append(early)
            others = self.by_id[early.outcome.prediction_id]
            if isinstance(others, deque) and len(others) > 1:
                others.popleft()
            else:
                del self.by_id[early.outcome.prediction_id]
        self._waiting -= len(entries)
        return entries

    def next(self) -> float | None:
        """Return the clock beyond which the next outcome is unmatched, None if none waits."""
        while self._queue and self._queue[0].gone:
            self._queue.popleft()
        if not self._queue:
            self.soonest = inf
            return None
        self.soonest = self._queue[0].log_time + self.grace
        return self.soonest
