"""What changes in the simulated world, and when."""

from dataclasses import dataclass
from typing import Literal

from streamapp.errors import ConfigError

Kind = Literal["abrupt", "gradual", "inputs", "none"]

SCENARIOS: dict[str, str] = {
    "abrupt": "the relation between inputs and outcomes changes at once",
    "gradual": "the same change, row by row, over a while",
    "inputs": "inputs come from elsewhere, the relation stays",
    "none": "nothing changes",
}
"""Scenarios by name, and what each means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One change of the world.

    Raises:
        ConfigError: There is no scenario of that kind, or a time is negative.
    """

    kind: Kind = "abrupt"
    at: float = 12.0
    """Seconds of stream before the change begins."""
    span: float = 20.0
    """Seconds that a gradual change takes."""

    def __post_init__(self) -> None:
        if self.kind not in SCENARIOS:
            raise ConfigError(f"there is no scenario {self.kind!r}: choose one of {', '.join(SCENARIOS)}")
        if self.at < 0 or self.span <= 0:
            raise ConfigError("a scenario needs at >= 0 and span > 0")

    def relation(self, elapsed: float) -> float:
        """Return the share of rows, *elapsed* seconds into the stream, whose relation is the new one."""
        if self.kind == "abrupt":
            return float(elapsed >= self.at)
        if self.kind == "gradual":
            return min(1.0, max(0.0, (elapsed - self.at) / self.span))
        return 0.0

    def inputs(self, elapsed: float) -> bool:
        """Tell whether inputs come from elsewhere, *elapsed* seconds into the stream."""
        return self.kind == "inputs" and elapsed >= self.at
