"""How far log time has come, as the joiners say."""

from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

SILENT_AFTER: Final = 30.0
"""Seconds without a tick after which nobody waits for a joiner any more."""


class Clock(Struct):
    """Log time that every joiner heard of lately has reached. It never goes back."""

    now: float | None = None
    """None before the first tick."""
    sources: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Progress in log time, and timestamp of the newest tick, by joiner partition."""
    ticked: float | None = None
    """``now`` at the newest tick."""

    def tick(self, partition: int, log_time: float, timestamp: float) -> None:
        """Hear that a joiner has come to *log_time*; timestamp is that of the record that says so."""
        before = self.sources.get(partition, (log_time, timestamp))
        self.sources[partition] = max(before[0], log_time), max(before[1], timestamp)
        self.look(timestamp)
        self.ticked = self.now

    def look(self, timestamp: float) -> None:
        """Leave out joiners that have been silent, by the timestamp of a record of the same log."""
        awake = [progress for progress, heard in self.sources.values() if timestamp - heard < SILENT_AFTER]
        if awake:
            lowest = min(awake)
            self.now = lowest if self.now is None else max(self.now, lowest)

    def copy(self) -> "Clock":
        """Return a clock that says the same, and that later messages do not change."""
        return replace(self, sources=dict(self.sources))
