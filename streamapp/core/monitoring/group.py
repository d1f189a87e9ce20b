"""One group of one model: counts, scores, baselines, drift, retrain policy."""

from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import numpy as np

from streamapp.core import quantiles, scores
from streamapp.core.baselines import Baseline
from streamapp.core.events import Bytes, Floats, GroupArrivals, Ints, Names, Verdict
from streamapp.core.losses import HARD, OWN
from streamapp.core.monitoring import packing
from streamapp.core.monitoring.contest import Contest
from streamapp.core.monitoring.judging import REASONS
from streamapp.core.monitoring.versions import Stretch, Versions
from streamapp.core.monitoring.watch import Finding, Watch
from streamapp.core.monitoring.window import Window
from streamapp.core.quantiles import quantile
from streamapp.core.report import GroupReport
from streamapp.core.retrain import RetrainPolicy
from streamapp.core.scores import BinaryScores, Scores
from streamapp.core.settings import Loss, ModelSettings, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Joined rows of one group, in the order in which they were resolved; n of them."""

    place: Ints
    """Where each lies among the joined rows of its batch."""
    block: Floats
    """Shape (COLUMNS, n)."""
    losses: Floats
    """Configured losses, nan where there is none; shape (n,) like the others."""
    baselines: Floats
    """Shape (baselines, LOSSES, n)."""
    reason: Bytes
    """Why it is unscorable, index into :data:`REASONS`; 0 for the others."""
    fit: bool
    """All could be scored on their outcomes."""
    ts: Floats
    log_time: Floats
    version: Names


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """Rows of a group do not fit the task; the first of them."""

    reason: str
    row: int
    """Its place among the joined rows of its batch."""
    at: float
    """Its event time."""


class Group:
    """What is known about one group.

    Args:
        model: Name of the model.
        name: Name of the group.
        settings: The model's.
    """

    def __init__(self, model: str, name: str, settings: ModelSettings) -> None:
        self.name = name
        self._settings = settings
        self._model = model
        self.predictions = 0
        self.verdicts = [0] * len(Verdict)
        """Rows by verdict."""
        self.unscorable = 0
        self.updated: float | None = None
        """Log time of the newest thing heard."""
        self.complained: set[str] = set()
        """Reasons for which rows were unscorable since the version changed."""
        self._latency: dict[int, int] = {}
        self._latency_sum = 0.0
        self._delay: Ints = np.zeros(0, np.int64)
        self._delay_sum = 0.0
        self._versions = Versions()
        self.policy = RetrainPolicy(model, name, settings.retrain)
        self.loss: Loss | None = None
        """Configured loss, None before the first row that could be scored."""
        self._task: Task | None = None
        self._window = Window(settings.window_rows)
        self._window_metrics: dict[str, float | None] | None = None
        self.watch: Watch | None = None
        """Detectors; there from the first row that could be scored, like the next two."""
        self._scores: Scores | None = None
        self._contest: Contest | None = None

    @property
    def pending(self) -> int:
        """Predictions without a verdict."""
        return self.predictions - sum(self.verdicts)

    def begin(self, task: Task, loss: Loss, plan: tuple[Baseline, ...]) -> None:
        """Learn what the rows are about, before the first of them."""
        self._task, self.loss = task, loss
        self._scores = scores.scores_of(task)
        self._contest = Contest(plan, task, loss)
        self.watch = Watch(task, loss, self._settings)

    def arrive(self, arrivals: GroupArrivals, log_time: float) -> None:
        """Take what came in."""
        self.predictions += arrivals.predictions
        if arrivals.latency:
            self._latency = quantiles.merge(self._latency, arrivals.latency)
            self._latency_sum += arrivals.latency_sum
        self.heard(log_time)

    def expect(self, predictions: int, updated: float | None) -> None:
        """Know of so many predictions without a verdict, the newest thing heard of them at a log time."""
        self.predictions, self.updated = predictions, updated

    def heard(self, log_time: float) -> None:
        """Note how new the newest thing is."""
        self.updated = log_time if self.updated is None else max(self.updated, log_time)

    def delay(self, bins: Ints, seconds: float) -> None:
        """Take the delays of outcomes.

        Args:
            bins: How many lie in each bin, from :data:`LOWEST_BIN` on.
            seconds: Their sum.
        """
        if len(bins) > len(self._delay):
            self._delay = np.pad(self._delay, (0, len(bins) - len(self._delay)))
        self._delay[: len(bins)] += bins
        self._delay_sum += seconds

    def score(self, rows: Rows, offset: int) -> list[Finding | Complaint]:
        """Take joined rows; return what was found, rows being places in the batch, in order within each kind.

        Args:
            rows: The rows.
            offset: Of the ``scored`` message.
        """
        if self._scores is not None and self._contest is not None:
            self._scores.add(rows.block, fit=rows.fit)
            self._contest.add(rows.baselines, rows.block[HARD], rows.losses)
            self._window.add(rows.block if rows.fit else rows.block[:, rows.reason == 0])
            self._window_metrics = None
        found: list[Finding | Complaint] = []
        for stretch in self._versions.stretches(rows.version, rows.ts, rows.log_time):
            if stretch.changed:
                if self.watch is not None:
                    self.watch.reset()
                self.complained.clear()
                found = [replace(one, stale=True) if isinstance(one, Finding) else one for one in found]
            found += self._complain(rows, stretch)
            if self.watch is not None:
                found += self._show(self.watch, rows, stretch, offset)
        self._versions.add(rows.version, rows.ts, rows.losses)
        return found

    def _complain(self, rows: Rows, stretch: Stretch) -> list[Complaint]:
        reason = rows.reason[stretch.start : stretch.end]
        if rows.fit or not reason.any():
            return []
        self.unscorable += int(np.count_nonzero(reason))
        complaints = []
        for code, first in zip(*np.unique(reason, return_index=True), strict=True):
            word = REASONS[int(code)]
            if word and word not in self.complained:
                self.complained.add(word)
                row = stretch.start + int(first)
                complaints.append(Complaint(reason=word, row=int(rows.place[row]), at=float(rows.ts[row])))
        return complaints

    def _show(self, watch: Watch, rows: Rows, stretch: Stretch, offset: int) -> list[Finding]:
        shown = np.flatnonzero(stretch.present) + stretch.start
        losses, own, ts = rows.losses, rows.block[OWN], rows.ts
        if len(shown) < len(ts):
            losses, own, ts = losses[shown], own[shown], ts[shown]
        finite = np.isfinite(losses)
        if not finite.all():
            shown, losses, own, ts = shown[finite], losses[finite], own[finite], ts[finite]
        if not len(shown):
            return []
        last = float(ts.max())
        self.policy.rows(offset, len(ts), float(ts.min()), last, float(losses.sum()), stretch.version)
        return [replace(one, row=int(rows.place[shown[one.row]])) for one in watch.feed(losses, own, ts)]

    def summary(self, *, incumbent: bool) -> dict[str, Any]:
        """Return the group's part of the summary.

        Args:
            incumbent: Whether there is a control group that this one is not.
        """
        joined, expired, censored, lost = self.verdicts
        found: dict[str, Any] = {
            "predictions": self.predictions,
            "outcomes": joined,
            "expired": expired,
            "censored": censored,
            "lost": lost,
            "pending": self.pending,
            "unscorable": self.unscorable,
            "metrics": {},
            "loss": None,
            "baselines": {},
            "skill": {},
        }
        if self._scores is not None and self._contest is not None and self.loss is not None:
            found["metrics"] = self._scores.metrics(self.loss)
            total, rows = self._scores.loss_sum(self.loss)
            found["loss"] = {"name": self.loss, "mean": scores.ratio(total, rows), "rows": rows}
            found["baselines"] = self._contest.means(incumbent=incumbent)
            found["skill"] = self._contest.skill(incumbent=incumbent)
        delay = _bins(self._delay)
        found["latency"] = {name: quantile(self._latency, q) for name, q in _LATENCY.items()}
        found["outcome_delay"] = {name: quantile(delay, q) for name, q in _DELAY.items()}
        found["versions"] = {
            name: {
                "rows": tally.rows,
                "loss": scores.ratio(tally.loss_sum, tally.losses),
                "first": tally.first,
                "last": tally.last,
            }
            for name, tally in self._versions.tallies.items()
        }
        return found

    def report(self, *, incumbent: bool) -> GroupReport:
        """Return how the group stands."""
        joined, expired, censored, lost = self.verdicts
        scored, contest = self._scores, self._contest
        known = scored is not None and contest is not None and self.loss is not None
        return GroupReport(
            group=self.name,
            predictions=self.predictions,
            outcomes=joined,
            expired=expired,
            censored=censored,
            lost=lost,
            pending=self.pending,
            unscorable=self.unscorable,
            latency=dict(self._latency),
            latency_sum=self._latency_sum,
            delay=_bins(self._delay),
            delay_sum=self._delay_sum,
            loss=self.loss,
            losses=scored.loss_sums(self.loss) if scored is not None and self.loss is not None else {},
            baseline_losses=contest.sums(incumbent=incumbent) if contest is not None else {},
            skill=contest.skill(incumbent=incumbent) if contest is not None else {},
            score_bins=_score_bins(scored),
            window_rows=len(self._window),
            window_metrics=self._metrics_of_window() if known else {},
            detectors=() if self.watch is None else self.watch.report(),
            version=self._versions.current,
            version_since=self._versions.since,
            retrain_deadline=self.policy.deadline,
            updated=self.updated,
        )

    def _metrics_of_window(self) -> dict[str, float | None]:
        # Kept until rows come: most groups of many are quiet between two scrapes.
        if self._window_metrics is None:
            assert self._task is not None
            assert self.loss is not None
            window = scores.scores_of(self._task)
            window.add(self._window.block)
            self._window_metrics = window.metrics(self.loss)
        return dict(self._window_metrics)

    def snapshot(self) -> bytes:
        """Return the whole state, for :meth:`load`."""
        state: dict[str, Any] = {
            "predictions": self.predictions,
            "verdicts": self.verdicts,
            "unscorable": self.unscorable,
            "updated": self.updated,
            "complained": sorted(self.complained),
            "latency": (self._latency, self._latency_sum),
            "delay": (packing.pack(self._delay), self._delay_sum),
            "versions": self._versions.snapshot(),
            "policy": self.policy.snapshot(),
            "loss": self.loss,
        }
        if self._scores is not None and self._contest is not None and self.watch is not None:
            state["scores"] = self._scores.snapshot()
            state["contest"] = self._contest.snapshot()
            state["watch"] = self.watch.snapshot()
            state["window"] = self._window.snapshot()
        return msgspec.msgpack.encode(state)

    def load(self, data: bytes, task: Task | None, plan: tuple[Baseline, ...]) -> None:
        """Take over a state.

        Args:
            data: What :meth:`snapshot` returned.
            task: The model's, None if it was not known yet.
            plan: The model's baselines.
        """
        state = msgspec.msgpack.decode(data)
        self.predictions, self.verdicts = state["predictions"], state["verdicts"]
        self.unscorable, self.updated = state["unscorable"], state["updated"]
        self.complained = set(state["complained"])
        self._latency, self._latency_sum = state["latency"]
        delay, self._delay_sum = state["delay"]
        self._delay = packing.ints(delay)
        self._versions.load(state["versions"])
        self.policy = RetrainPolicy.restore(self._model, self.name, self._settings.retrain, state["policy"])
        if "scores" in state and task is not None:
            self.begin(task, state["loss"], plan)
            assert self._contest is not None
            assert self.watch is not None
            self._scores = scores.restore(state["scores"])
            self._contest.load(state["contest"])
            self.watch.load(state["watch"])
            self._window.load(state["window"], task)


LOWEST_BIN: Final = int(quantiles.bins(np.array([quantiles.SMALLEST]))[0]) - 1
"""First bin of delays as :class:`Group` counts them; it holds 0."""
_LATENCY = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_DELAY = {"p50": 0.5, "p95": 0.95}


def _bins(counts: Ints) -> dict[int, int]:
    places = np.flatnonzero(counts)
    found = dict(zip((places + LOWEST_BIN).tolist(), counts[places].tolist(), strict=True))
    zero = found.pop(LOWEST_BIN, 0)
    return {quantiles.ZERO: zero, **found} if zero else found


def _score_bins(scored: Scores | None) -> dict[tuple[int, str], int]:
    if not isinstance(scored, BinaryScores):
        return {}
    result = {}
    for number, (rows, positive) in enumerate(zip(scored.bin_count, scored.bin_positive, strict=True)):
        result[number, "true"], result[number, "false"] = int(positive), int(rows - positive)
    return result
