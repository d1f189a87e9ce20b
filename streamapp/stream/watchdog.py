"""Sees when nothing moves any more: Faust and clients have been seen to fall asleep."""

import logging
from collections.abc import Callable, Iterable

from faust.types import TP

from streamapp.stream.task import Task

logger = logging.getLogger(__name__)

STUCK_AFTER = 60.0
"""Seconds with lag and without any progress after which a task is stuck, or says what it waits for."""
UNASSIGNED_AFTER = 300.0
"""Seconds without an assignment after which none will come."""


class Watchdog:
    """Says why the process should end, if it should.

    Args:
        monotonic: Seconds that only go forward.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._unassigned_since = monotonic()
        self._excused: dict[Task, float] = {}
        """When it was last said what tasks wait for that are behind and do not move."""

    def stuck(self, tasks: Iterable[Task], lag: Callable[[Task], dict[TP, int]]) -> str | None:
        """Return which task is behind but does not move."""
        now = self._monotonic()
        for task in tasks:
            behind = sum(lag(task).values()) if task.parked is None else 0
            # A batch that is held back counts as lag: the other input, or a proof of its end, is a second away.
            if not behind:
                task.progressed = now
                self._excused.pop(task, None)
            elif now - max(task.progressed, self._excused.get(task, task.progressed)) > STUCK_AFTER:
                awaited = task.waits_for()
                if awaited is None:
                    return f"{task}: {behind} records behind and no progress for {STUCK_AFTER:g} s"
                logger.warning("%s: has waited %g s for %s", task, STUCK_AFTER, awaited)
                self._excused[task] = now
        return None

    def assigned(self) -> None:
        """Hear that partitions were assigned, revoked, or are being taken over, which may take its time."""
        self._unassigned_since = self._monotonic()
        self._excused.clear()

    def unassigned(self) -> str | None:
        """Return that no assignment has followed a revocation."""
        if self._monotonic() - self._unassigned_since <= UNASSIGNED_AFTER:
            return None
        return f"nothing was assigned for {UNASSIGNED_AFTER:g} s"
