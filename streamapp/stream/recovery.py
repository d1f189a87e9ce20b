"""What it took to take a task over: for the log and for metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Reread:
    """A stretch of an input that was applied before and had to be read again."""

    start: int
    """Its first offset."""
    end: int
    """Offset behind its last one."""
    records: int = 0
    """How many there were, as far as it has been read."""


@dataclass(slots=True)
class Recovery:
    """How one task was taken over."""

    seconds: float = 0.0
    """From taking the producer over to being ready to go on."""
    first: bool = False
    """Whether nobody had ever committed: it begins at the start of its inputs."""
    entries: int = 0
    """Of the checkpoint."""
    size: int = 0
    """Bytes of their values."""
    reread: dict[str, Reread] = field(default_factory=dict)
    """By topic."""

    def found(self, entries: Mapping[bytes, bytes] | None) -> None:
        """Hear what the checkpoint held; None where nobody had ever committed."""
        self.first = entries is None
        self.entries = len(entries or ())
        self.size = sum(map(len, (entries or {}).values()))

    @property
    def reason(self) -> str:
        """The word by which it is counted."""
        return "began" if self.first else "restored"

    def details(self) -> dict[str, Any]:
        """Return the same as data."""
        return {
            "event": self.reason,
            "seconds": round(self.seconds, 3),
            "entries": self.entries,
            "bytes": self.size,
            "reread": {
                topic: {"from": part.start, "to": part.end, "records": part.records}
                for topic, part in self.reread.items()
            },
        }

    def __str__(self) -> str:
        """Return it as a line of the log has it."""
        if self.first:
            return f"began in {self.seconds:.2f} s: nothing was stored"
        again = "".join(
            f", {part.records:,} records of {topic} read again from {part.start} to {part.end}"
            for topic, part in self.reread.items()
        )
        return f"restored in {self.seconds:.2f} s from {self.entries:,} entries, {self.size:,} bytes{again}"
