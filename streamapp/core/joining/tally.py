"""Counts of what became of the records of one input topic."""

from collections import Counter
from collections.abc import Sequence

STATUSES = ("read", "accepted", "rejected", "duplicate", "late", "unmatched", "misplaced", "lost", "revised")
"""``misplaced`` and ``revised`` are marks beside ``accepted``; ``lost``: retention removed it while it waited."""
OVERFLOWN = ("other_model", "other_group")
"""Further marks beside ``accepted``: counted under ``other``, since there were too many names of models or groups."""
_ALL = (*STATUSES, *OVERFLOWN)


class Tally:
    """Counts by status and, for rejected records, by reason."""

    __slots__ = ("_taken", "_taken_reasons", "reasons", "topic", *_ALL)

    read: int
    accepted: int
    rejected: int
    duplicate: int
    late: int
    unmatched: int
    misplaced: int
    lost: int
    revised: int
    other_model: int
    other_group: int

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.restore({}, {})

    def restore(self, counts: dict[str, int], reasons: dict[str, int]) -> None:
        """Go on from these counts."""
        for status in _ALL:
            setattr(self, status, counts.get(status, 0))
        self.reasons = dict(reasons)
        self.take()

    def reject(self, reason: str) -> None:
        """Count a rejected record."""
        self.rejected += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def reject_all(self, reasons: Sequence[str]) -> None:
        """Count rejected records."""
        self.rejected += len(reasons)
        for reason, n in Counter(reasons).items():
            self.reasons[reason] = self.reasons.get(reason, 0) + n

    def counts(self) -> dict[str, int]:
        """Return the counts by status."""
        return {status: getattr(self, status) for status in _ALL}

    def take(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return what was added by status and by reason since the last time, without zeros."""
        counts, reasons = self.counts(), dict(self.reasons)
        before = getattr(self, "_taken", {}), getattr(self, "_taken_reasons", {})
        self._taken, self._taken_reasons = counts, reasons
        return _difference(counts, before[0]), _difference(reasons, before[1])


def _difference(now: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: n - before.get(name, 0) for name, n in now.items() if n != before.get(name, 0)}
