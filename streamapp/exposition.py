"""What Prometheus scrapes: a collector that reads the last snapshot the stream has put there.

The stream puts immutable snapshots there and never waits for a scrape; what they amount to is worked out by the scrape,
on its own thread. Gauges are those of the models that this process owns now, and vanish with the ownership. Counters
belong to the process: what a model's state had counted before this process took it over is not counted here, and what
was counted here stays when the model goes elsewhere.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from streamapp.config import ROLES
from streamapp.core import quantiles
from streamapp.core.report import GroupReport, ModelReport
from streamapp.core.settings import Settings
from streamapp.families import (
    BOUNDS,
    COUNT,
    DELAY_BOUNDS,
    FAMILY,
    LATENCY_BOUNDS,
    OTHER,
    SUM,
    Families,
    Key,
    Labels,
    Vocabulary,
    clean,
)
from streamapp.pace import Pace
from streamapp.stream.complaints import REASONS
from streamapp.stream.quarantine import QUARANTINED

__all__ = ["CAP", "DELAY_BOUNDS", "LATENCY_BOUNDS", "MOST_NEWS", "OTHER", "Exposition", "Snapshot"]

CAP = 500
"""Values that each label may take; the next ones become :data:`OTHER`."""
MOST_NEWS = 32
"""What is heard and not scraped is worked off at this number, so that it does not grow where nobody scrapes."""

_STATUSES = {
    "predictions": ("accepted", "rejected", "duplicate", "misplaced", "lost"),
    "outcomes": ("accepted", "rejected", "duplicate", "late", "unmatched", "misplaced", "revised"),
}
_ENDS = ("restored", "fenced", "aborted", "failed")
"""What any task may be counted for."""
_ENDS_OF_A_PROCESS = ("failed", "stuck", "killed")
"""What no task need have done."""
_ANSWERS = ("accepted", "rejected", "expired")
_STATES = ("collecting", "insufficient", "watching")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that a process shows at one moment. Whoever publishes it does not change it afterwards."""

    models: tuple[ModelReport, ...] = ()
    """Of the ``scored`` partitions owned now."""
    events: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Events since the process began, by (topic, status); likewise the other counts."""
    rejected: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By (topic, reason)."""
    signals: Mapping[Labels, int] = field(default_factory=dict)
    """By (model, group, kind, severity, detector)."""
    retrain_requests: Mapping[Labels, int] = field(default_factory=dict)
    """By (model, group, reason)."""
    model_updates: Mapping[Labels, int] = field(default_factory=dict)
    """By (model, group, status)."""
    recoveries: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By (role, reason)."""
    overflow: Mapping[tuple[str], int] = field(default_factory=dict)
    """By (label,): what was beyond the most that tasks keep."""
    reread: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Records by (role, topic)."""
    restore_seconds: Mapping[tuple[str, int], float] = field(default_factory=dict)
    """By (role, partition), of the tasks owned now."""
    parked: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """Reason, a short word, by (role, partition)."""
    pending: Mapping[int, int] = field(default_factory=dict)
    """Pending predictions by partition, of the joiners owned now."""
    log_time: Mapping[int, float] = field(default_factory=dict)
    """Log time by partition, likewise."""
    lag: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """Records by (topic, partition)."""
    checkpoint_age: Mapping[tuple[str, int], float] = field(default_factory=dict)
    """Seconds by (role, partition)."""
    checkpoint_bytes: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """By (role, partition)."""
    learner_progress: Mapping[str, float] = field(default_factory=dict)
    """Log time of the newest row learned from, by model."""


class Exposition(Collector):
    """Turns snapshots into series.

    Args:
        settings: Of the models: teams and objectives.
        cap: Values that each label may take.
        renew: Called before each scrape, on its thread, to have a new snapshot published.

    Attributes:
        registry: What a web server exposes; holds this collector alone.
    """

    def __init__(self, settings: Settings, *, cap: int = CAP, renew: Callable[[], None] | None = None) -> None:
        self._settings = settings
        self._labels = Vocabulary(cap)
        self._renew = renew
        self._news: deque[Callable[[], None]] = deque()
        """What was heard since the last scrape, oldest first."""
        self._lock = threading.Lock()
        """Held while that is worked off, and by nobody who must not wait."""
        self._snapshot = Snapshot()
        self._counted: dict[str, dict[Key, float]] = {}
        """What each model's report said when it was last counted."""
        self._totals: dict[Key, float] = {}
        self._carried: dict[Key, float] = {}
        """What was counted of the forgotten and shown as :data:`OTHER`, by the labels it was shown under."""
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def adopt(self, models: Iterable[ModelReport]) -> None:
        """Hear how models stand that were taken over from a checkpoint: their counts so far are not this process's."""
        self._hear(partial(self._adopt, tuple(models)))

    def publish(self, snapshot: Snapshot) -> None:
        """Show this from now on."""
        self._hear(partial(self._publish, snapshot))

    def forget(self, names: Iterable[tuple[str, str | None]]) -> None:
        """Drop what was counted of models, each with a group or None for the whole; they will not be shown again."""
        self._hear(partial(self._forget, tuple(names)))

    def collect(self) -> Iterator[Metric]:
        """Yield every family, with or without samples, in the order of the catalogue, at a pace others can bear."""
        if self._renew is not None:
            self._renew()
        pace = Pace()
        with self._lock:
            self._work_off()
            snapshot = self._snapshot
            for model in snapshot.models:
                self._count((model,))
                pace.step()
            families = Families(self._labels, pace)
            families.counters({**self._totals, **_process_counters(snapshot)})
            families.counters(self._carried)
            _process_gauges(families, snapshot)
            for model in snapshot.models:
                _model_gauges(families, model, self._settings)
                pace.step()
            families.overflow(snapshot.events, snapshot.overflow)
        yield from families

    def _hear(self, news: Callable[[], None]) -> None:
        self._news.append(news)
        if len(self._news) > MOST_NEWS:
            with self._lock:
                self._work_off()

    def _work_off(self) -> None:
        while self._news:
            self._news.popleft()()

    def _adopt(self, models: tuple[ModelReport, ...]) -> None:
        for model in models:
            self._counted[model.model] = counts = _counts(model)
            self._add(counts, counts)

    def _publish(self, snapshot: Snapshot) -> None:
        owned = {model.model for model in snapshot.models}
        gone = [model for model in self._snapshot.models if model.model not in owned]
        self._count(gone)
        for model in gone:
            self._counted.pop(model.model, None)
        after = _by_group(snapshot)
        for key, value in _by_group(self._snapshot).items():
            if after.get(key, 0) < value:
                self._carry(key, value)
        self._snapshot = snapshot

    def _forget(self, names: tuple[tuple[str, str | None], ...]) -> None:
        for model, group in names:
            for key in _of(self._counted.get(model, {}), model, group):
                del self._counted[model][key]
            for key in _of(self._totals, model, group):
                self._carry(key, self._totals.pop(key))
            if group is None:
                self._release(clean(model))
            elif not self._uses(group):
                self._labels.release("group", clean(group))

    def _carry(self, key: Key, value: float) -> None:
        """Keep what is forgotten where it is one of others: they are shown as one, and that must not fall."""
        name, labels, part = key
        labels = self._labels.capped(FAMILY[name], labels)
        if OTHER in labels[:2]:
            self._carried[name, labels, part] = self._carried.get((name, labels, part), 0.0) + value

    def _release(self, model: str) -> None:
        if model != OTHER:
            for key in _of(self._carried, model, None):
                del self._carried[key]
        self._labels.release("model", model)

    def _uses(self, group: str) -> bool:
        """Return whether anything is shown of a group, of models that went elsewhere too."""
        counted = any(key[1][1] == group for counts in (self._totals, _by_group(self._snapshot)) for key in counts)
        carried = any(key[1][1] == clean(group) for key in self._carried)
        return (
            counted or carried or any(group == each.group for known in self._snapshot.models for each in known.groups)
        )

    def _count(self, models: Iterable[ModelReport]) -> None:
        for model in models:
            counts = _counts(model)
            self._add(counts, self._counted.get(model.model, {}))
            self._counted[model.model] = counts

    def _add(self, now: Mapping[Key, float], before: Mapping[Key, float]) -> None:
        totals = self._totals
        for key, value in now.items():
            totals[key] = totals.get(key, 0.0) + max(0.0, value - before.get(key, 0.0))


def _of(counts: Mapping[Key, float], model: str, group: str | None) -> list[Key]:
    """Return the keys of a group, or of a whole model."""
    return [key for key in counts if key[1][0] == model and group in (None, key[1][1])]


def _by_group(snapshot: Snapshot) -> dict[Key, float]:
    """Return the process's own counts that are kept by model and group."""
    return {
        (name, labels, 0): count
        for name, counted in (
            ("streamapp_signals_total", snapshot.signals),
            ("streamapp_retrain_requests_total", snapshot.retrain_requests),
            ("streamapp_model_updates_total", snapshot.model_updates),
        )
        for labels, count in counted.items()
    }


def _counts(model: ModelReport) -> dict[Key, float]:
    """Return all that only grows in a model's report."""
    counts: dict[Key, float] = {}
    for group in model.groups:
        names = (model.model, group.group)
        counts["streamapp_predictions_total", names, 0] = group.predictions
        counts["streamapp_outcomes_total", names, 0] = group.outcomes
        counts["streamapp_expired_total", names, 0] = group.expired
        _histogram(counts, "streamapp_prediction_latency_seconds", names, group.latency, group.latency_sum)
        _histogram(counts, "streamapp_outcome_delay_seconds", names, group.delay, group.delay_sum)
        for loss, (total, rows) in group.losses.items():
            counts["streamapp_loss", (*names, loss), SUM] = total
            counts["streamapp_loss", (*names, loss), COUNT] = rows
        for (baseline, loss), (total, rows) in group.baseline_losses.items():
            counts["streamapp_baseline_loss", (*names, baseline, loss), SUM] = total
            counts["streamapp_baseline_loss", (*names, baseline, loss), COUNT] = rows
        for (number, outcome), rows in group.score_bins.items():
            counts["streamapp_score_bin_total", (*names, str(number), outcome), 0] = rows
    return counts


def _histogram(counts: dict[Key, float], name: str, labels: Labels, bins: Mapping[int, int], total: float) -> None:
    counts[name, labels, SUM] = total
    for index, rows in bins.items():
        key = (name, labels, _bucket(name, index))
        counts[key] = counts.get(key, 0.0) + rows


@cache
def _bucket(name: str, index: int) -> int:
    """Return the number of the bucket that holds a logarithmic bin: the one whose end, which belongs to it, is there.

    Bins are 2 % wide, so ends are that exact.
    """
    return int(np.searchsorted(quantiles.bins(np.array(BOUNDS[name])), index, side="left"))


def _process_counters(snapshot: Snapshot) -> dict[Key, float]:
    """Return counters of the process; what may be counted later is there at 0, so that no increase is missed."""
    counts: dict[Key, float] = {}

    def put(name: str, labels: Labels, value: float = 0) -> None:
        counts[name, labels, 0] = value

    for topic, statuses in _STATUSES.items():
        for status in statuses:
            put("streamapp_events_total", (topic, status))
        for reason in (*REASONS, QUARANTINED):
            put("streamapp_rejected_total", (topic, reason))
    for role in ROLES:
        for reason in _ENDS:
            put("streamapp_recoveries_total", (role, reason))
    for reason in _ENDS_OF_A_PROCESS:
        put("streamapp_recoveries_total", ("worker", reason))
    for model in snapshot.models:
        for group in model.groups:
            names = (model.model, group.group)
            for detector in group.detectors:
                for kind in ("drift", "recovery"):
                    put("streamapp_signals_total", (*names, kind, "warn", detector.name))
            put("streamapp_signals_total", (*names, "drift", "act", "policy"))
            put("streamapp_signals_total", (*names, "data_quality", "warn", "unscorable"))
            put("streamapp_retrain_requests_total", (*names, "drift"))
            for answer in _ANSWERS:
                put("streamapp_model_updates_total", (*names, answer))
    for (topic, status), count in snapshot.events.items():
        if status in _STATUSES.get(topic, ()):
            put("streamapp_events_total", (topic, status), count)
    for name, counted in (
        ("streamapp_rejected_total", snapshot.rejected),
        ("streamapp_recoveries_total", snapshot.recoveries),
        ("streamapp_reread_records_total", snapshot.reread),
    ):
        for labels, count in counted.items():
            put(name, labels, count)
    return counts | _by_group(snapshot)


def _process_gauges(families: Families, snapshot: Snapshot) -> None:
    for partition, pending in snapshot.pending.items():
        families.gauge("streamapp_pending_predictions", (str(partition),), pending)
    for partition, at in snapshot.log_time.items():
        families.gauge("streamapp_log_time_seconds", (str(partition),), at)
    for (topic, partition), records in snapshot.lag.items():
        families.gauge("streamapp_consumer_lag_records", (topic, str(partition)), records)
    for (role, partition), age in snapshot.checkpoint_age.items():
        families.gauge("streamapp_checkpoint_age_seconds", (role, str(partition)), age)
    for (role, partition), size in snapshot.checkpoint_bytes.items():
        families.gauge("streamapp_checkpoint_bytes", (role, str(partition)), size)
    for (role, partition), took in snapshot.restore_seconds.items():
        families.gauge("streamapp_restore_seconds", (role, str(partition)), took)
    for (role, partition), reason in snapshot.parked.items():
        families.gauge("streamapp_parked", (role, str(partition), reason), 1)
    for model, at in snapshot.learner_progress.items():
        families.gauge("streamapp_learner_progress_timestamp_seconds", (model,), at)


def _model_gauges(families: Families, model: ModelReport, settings: Settings) -> None:
    name, chosen = model.model, settings.of(model.model)
    families.gauge("streamapp_model_info", (name, model.task or "", chosen.team), 1)
    families.gauge("streamapp_latency_slo_seconds", (name,), chosen.latency_slo)
    deadlines = [group.retrain_deadline for group in model.groups if group.retrain_deadline is not None]
    families.gauge("streamapp_retrain_deadline_timestamp_seconds", (name,), min(deadlines, default=None))
    for group in model.groups:
        _group_gauges(families, name, group)


def _group_gauges(families: Families, model: str, group: GroupReport) -> None:
    names = (model, group.group)
    families.gauge("streamapp_window_samples", names, group.window_rows)
    families.gauge("streamapp_updated_timestamp_seconds", names, group.updated)
    if group.version is not None:
        families.gauge("streamapp_model_updated_timestamp_seconds", (model, group.version), group.version_since)
    for metric, value in group.window_metrics.items():
        families.gauge("streamapp_metric", (*names, metric), value)
    for baseline, value in group.skill.items():
        families.gauge("streamapp_skill_ratio", (*names, baseline), value)
    for detector in group.detectors:
        labels = (*names, detector.name)
        families.gauge("streamapp_drift_score", labels, detector.score)
        families.gauge("streamapp_drift_threshold", labels, detector.threshold)
        for state in _STATES:
            families.gauge("streamapp_detector_state", (*labels, state), float(detector.state == state))
