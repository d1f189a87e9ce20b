"""How a model stands, as an immutable copy for whoever shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from streamapp.core.settings import Loss, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorReport:
    """One drift detector of a group."""

    name: str
    state: Literal["collecting", "insufficient", "watching"]
    score: float | None
    threshold: float | None
    """What the score must reach; None where there is none, or not yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReport:
    """One group of a model. Counts and sums are over the whole run and only grow, but for ``pending``."""

    group: str
    predictions: int
    outcomes: int
    """Joined rows; ``expired``, ``censored`` and ``lost`` are the other verdicts."""
    expired: int
    censored: int
    lost: int
    pending: int
    unscorable: int
    """Joined rows whose answer or outcome does not fit the task."""
    latency: Mapping[int, int]
    """Predictions by bin of :mod:`streamapp.core.quantiles`, of the seconds the model took."""
    latency_sum: float
    delay: Mapping[int, int]
    """Joined rows by bin likewise, of the seconds from prediction to outcome, at least 0."""
    delay_sum: float
    loss: Loss | None
    """What detectors and skill use; None before the first row that could be scored."""
    losses: Mapping[Loss, tuple[float, int]]
    """Sum and count of each loss of the task; outcomes' own losses count in the one above."""
    baseline_losses: Mapping[tuple[str, Loss], tuple[float, int]]
    """Sum and count by baseline and loss, over the rows where it had an answer."""
    skill: Mapping[str, float | None]
    """By baseline."""
    score_bins: Mapping[tuple[int, str], int]
    """Joined rows of a binary task by bin of their score (ten equal ones) and outcome (``true`` or ``false``)."""
    window_rows: int
    """Rows in the current window."""
    window_metrics: Mapping[str, float | None]
    detectors: tuple[DetectorReport, ...]
    version: str | None
    """Newest version that answered; None where none was ever named."""
    version_since: float | None
    """Event time of the first row answered by it."""
    retrain_deadline: float | None
    """Log time at which the open retrain request is given up; None where none is open."""
    updated: float | None
    """Log time of the newest outcome or verdict taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """One model."""

    model: str
    task: Task | None
    """None until a row told."""
    control: str | None
    groups: tuple[GroupReport, ...]
    """In the order in which they appeared."""
    clock: float | None
    """Log time that every joiner heard of lately has reached; None before the first tick."""
