"""What a drift detector says, and what one is."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from streamapp.core.events import Floats

State = Literal["collecting", "insufficient", "watching"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A detector holds that the mean loss has changed."""

    row: int
    """Index into the losses given to :meth:`Detector.update`."""
    direction: Literal["up", "down"]
    severity: Literal["warn", "act"]
    before: float
    """Mean loss before the estimated change."""
    after: float
    """Mean loss since the estimated change."""
    rows: int
    """Finite losses since the estimated change, up to and including ``row``."""
    statistic: float
    threshold: float | None
    """What ``statistic`` reached; None where the detector has no single threshold."""
    evidence: dict[str, Any]


class Detector(Protocol):
    """Watches the losses of one model and group."""

    name: str

    @property
    def score(self) -> float | None:
        """The statistic now, None while there is none."""

    @property
    def threshold(self) -> float | None:
        """What the score must reach for an alarm, None where the detector has no single threshold."""

    @property
    def state(self) -> State:
        """Whether it watches, or still measures what normal is."""

    def update(self, losses: Floats, times: Floats) -> list[Alarm]:
        """Take the next losses, in [0, 1], and their event times; return the alarms in order of row.

        However the rows are cut into batches, the alarms are the same. A loss that is not finite is skipped.
        """

    def reset(self) -> None:
        """Forget everything: another version answers from now on."""

    def snapshot(self) -> bytes:
        """Return the whole state, for :func:`streamapp.core.drift.restore`."""
