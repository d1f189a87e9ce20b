"""Settings of one model. Every field has a default, so an unknown model works at once."""

from typing import Any, Literal

from msgspec import Struct, field

Label = bool | str | float
"""An answer or a truth: a class (bool or str) or a number."""

Task = Literal["binary", "multiclass", "regression"]
Loss = Literal["error", "brier", "log", "absolute", "squared"]


class Seconds(float):
    """A duration in seconds; configuration files write it as ``"30m"``."""


class Assume(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an expired prediction's outcome is taken to have been."""

    assume: Label


class RetrainSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to ask for training."""

    when: tuple[Literal["drift", "degradation"], ...] = ("drift",)
    """Kinds of ``act`` signals that ask for training; empty: never."""
    cooldown: Seconds = Seconds(3600)
    """Log time between the end of one request and the next request of the same group."""
    minimum_rows: int = 500
    """Joined rows that must lie in the window to learn from before a request is sent."""
    deadline: Seconds = Seconds(86400)
    """Log time after which an unanswered request is taken to have failed."""


class LearnerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The incremental model that repairs this model."""

    model: str | None = None
    """River estimator by dotted name; None: chosen by task."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the estimator."""
    scale: bool = True
    """Put a ``StandardScaler`` in front of the estimator."""
    warmup: int = 50
    """Rows the candidate learns before its losses count."""
    proof_rows: int = 500
    """Rows after the cause on which candidate and incumbent are compared."""
    margin: float = 0.0
    """Share of the incumbent's loss by which the candidate must be better."""


class ModelSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one model is watched."""

    task: Task | None = None
    """None: inferred once, from the first resolved row."""
    positive: Label = True
    """The outcome that counts as positive in a binary task."""
    control: str | None = None
    """The group that others are compared with; None: the first group seen."""
    groups: dict[str, float] = field(default_factory=dict)
    """Planned shares by group."""
    outcome_window: Seconds = Seconds(1800)
    """An outcome belongs when its ts is at most this far after the prediction's."""
    grace: Seconds = Seconds(300)
    """How late an outcome or a prediction may be delivered."""
    budget: int = 100_000
    """Outcomes between two false alarms (``act``) of a group, on average at least."""
    team: str = ""
    """Label for routing alerts."""
    runbook: str = ""
    """Link for whoever is alerted."""
    remember: Seconds = Seconds(60)
    """Log time for which resolved ids and their outcomes are kept."""
    corrections: Seconds = Seconds(0)
    """How long resolved rows can be restated by a higher revision."""
    threshold: float = 0.5
    """Decides where scores come without a prediction."""
    reference_rows: int = 2000
    """Rows on which "normal" is measured."""
    cycle: Seconds | None = Seconds(86400)
    """The reference must span this much event time; None (``"none"``): no cycle."""
    window_rows: int = 1000
    """Rows of the current window."""
    forget_after: Seconds = Seconds(30 * 86400)
    """A model or group without events for so long is dropped."""
    on_expiry: Literal["drop"] | Assume = "drop"
    """What becomes of a prediction without an outcome: it counts as expired, or an outcome is assumed."""
    baselines: tuple[str | dict[str, Any], ...] | None = None
    """None: by task. Names, or ``{seasonal = 24}``, ``{constant = 0, name = "human"}``."""
    loss: Loss | None = None
    """What detectors and comparison use; None: by task."""
    detectors: tuple[str | dict[str, Any], ...] = ("adwin", "e-sr")
    """Names, or a table with ``name`` and the detector's parameters."""
    latency_slo: Seconds | None = None
    """Objective for the latency of a prediction, for dashboards and alert rules."""
    reference: str | None = None
    """File of rows on which "normal" is measured, instead of the first ``reference_rows``."""
    comparison: dict[str, Any] = field(default_factory=dict)
    """How groups are compared."""
    features: dict[str, Any] = field(default_factory=dict)
    """Which features are kept."""
    review: dict[str, Any] = field(default_factory=dict)
    """Which predictions a person is asked about."""
    retrain: RetrainSettings = RetrainSettings()
    """When training is asked for."""
    learner: LearnerSettings = LearnerSettings()
    """What learns."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of every model: the named ones, and the defaults for the others."""

    models: dict[str, ModelSettings] = field(default_factory=dict)
    defaults: ModelSettings = ModelSettings()

    def of(self, model: str) -> ModelSettings:
        """Return the settings that *model* is watched with."""
        return self.models.get(model, self.defaults)
