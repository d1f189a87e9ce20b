"""What a scenario is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.faults.oracle import USUAL, Times
from tests.faults.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A small script of steps. What must hold afterwards is the same for all."""

    kind: str
    """Which kind of fault it tries."""
    play: Callable[[Run], None]
    """Does it; its docstring says what."""
    times: int = 1
    """Runs in the long form."""
    cluster: bool = False
    """Whether it is played on three brokers, in the long form only."""
    times_of: Times = USUAL
    """What decides about verdicts."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """More variables of its workers."""
    shows: tuple[str, ...] = ("joined", "expired", "censored", "signals")
    """Of what there must have been some to compare."""

    @property
    def name(self) -> str:
        """Name by which it is asked for."""
        return self.play.__name__.replace("_", "-")

    @property
    def fault(self) -> str:
        """What it does to whom, in words."""
        return (self.play.__doc__ or "").strip().split("\n")[0].rstrip(".")
