"""One group of one model: counts, scores, baselines, drift, retrain policy."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np

from streamapp.core import quantiles, scores
from streamapp.core.baselines import Baseline
from streamapp.core.events import GroupArrivals, Ints, Verdict
from streamapp.core.monitoring import packing
from streamapp.core.monitoring.contest import Contest
from streamapp.core.monitoring.rows import Rows
from streamapp.core.monitoring.versions import Versions
from streamapp.core.monitoring.watch import Watch
from streamapp.core.monitoring.window import Window
from streamapp.core.quantiles import quantile
from streamapp.core.report import GroupReport
from streamapp.core.retrain import RetrainPolicy
from streamapp.core.scores import BinaryScores, Scores
from streamapp.core.settings import Loss, ModelSettings, Task


@dataclass(slots=True, kw_only=True)
class Begun:
    """What a group has from its first row on that could be scored."""

    task: Task
    loss: Loss
    """Configured loss."""
    scores: Scores
    contest: Contest
    watch: Watch
    """Detectors."""


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
        self._new_latency: list[dict[int, int]] = []
        """Counts that are not in there yet: by the time that many are, the counts of other groups lie in the cache."""
        self._new_bins = 0
        """How many there are."""
        self._latency_sum = 0.0
        self._delay: Ints = np.zeros(0, np.int64)
        self.delay_sum = 0.0
        """Of seconds from prediction to outcome."""
        self.versions = Versions()
        self.policy = RetrainPolicy(model, name, settings.retrain)
        self.begun: Begun | None = None
        """None before the first row that could be scored."""
        self._window = Window(settings.window_rows)
        self._window_metrics: dict[str, float | None] | None = None

    @property
    def pending(self) -> int:
        """Predictions without a verdict."""
        return self.predictions - sum(self.verdicts)

    @property
    def loss(self) -> Loss | None:
        """Configured loss, None before the first row that could be scored."""
        return None if self.begun is None else self.begun.loss

    @property
    def version(self) -> str | None:
        """Version that answers, None while no row has named one."""
        return self.versions.current

    def begin(self, task: Task, loss: Loss, plan: tuple[Baseline, ...]) -> None:
        """Learn what the rows are about, before the first of them."""
        watch = Watch(task, loss, self._settings)
        contest = Contest(plan, task, loss)
        self.begun = Begun(task=task, loss=loss, scores=scores.scores_of(task), contest=contest, watch=watch)

    def arrive(self, arrivals: GroupArrivals, log_time: float) -> None:
        """Take what came in."""
        self.predictions += arrivals.predictions
        if arrivals.latency:
            self._new_latency.append(arrivals.latency)
            self._new_bins += len(arrivals.latency)
            self._latency_sum += arrivals.latency_sum
            if self._new_bins >= BINS_MAX or len(self._new_latency) >= COUNTS_MAX:
                self._add_latency()
        self.heard(log_time)

    def _add_latency(self) -> dict[int, int]:
        """Add up all counts of latencies, and return them by bin; bins lie in the order in which they appeared."""
        latency, new = self._latency, self._new_latency
        if new:
            for counts in new:
                for index, count in counts.items():
                    latency[index] = latency.get(index, 0) + count
            self._new_latency, self._new_bins = [], 0
        return latency

    def resolve(self, verdict: int, rows: int) -> None:
        """Count rows with a verdict, an item of :class:`~streamapp.core.events.Verdict`."""
        self.verdicts[verdict] += rows
        self.predictions = max(self.predictions, sum(self.verdicts))  # arrivals may have been forgotten

    def expect(self, predictions: int, updated: float | None) -> None:
        """Know of so many predictions without a verdict, the newest thing heard of them at a log time."""
        self.predictions, self.updated = predictions, updated

    def heard(self, log_time: float) -> None:
        """Note how new the newest thing is."""
        self.updated = log_time if self.updated is None else max(self.updated, log_time)

    def delay(self, bins: Ints, total: float) -> None:
        """Take the delays of outcomes.

        Args:
            bins: How many lie in each bin, from :data:`LOWEST_BIN` on.
            total: What their sum makes of :attr:`delay_sum`.
        """
        if len(bins) > len(self._delay):
            self._delay = np.pad(self._delay, (0, len(bins) - len(self._delay)))
        self._delay[: len(bins)] += bins
        self.delay_sum = total

    def look(self, rows: Rows, own: Ints) -> None:
        """Put the group's own rows, at these places, into its window."""
        if rows.unfit:
            own = own[rows.reason[own] == 0]
        self._window.add(rows.block, own)
        self._window_metrics = None

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
        if (begun := self.begun) is not None:
            found["metrics"] = begun.scores.metrics(begun.loss)
            total, rows = begun.scores.loss_sum(begun.loss)
            found["loss"] = {"name": begun.loss, "mean": scores.ratio(total, rows), "rows": rows}
            found["baselines"] = begun.contest.means(incumbent=incumbent)
            found["skill"] = begun.contest.skill(incumbent=incumbent)
        delay, latency = _bins(self._delay), self._add_latency()
        found["latency"] = {name: quantile(latency, q) for name, q in _LATENCY.items()}
        found["outcome_delay"] = {name: quantile(delay, q) for name, q in _DELAY.items()}
        found["versions"] = {
            name: {
                "rows": tally.rows,
                "loss": scores.ratio(tally.loss_sum, tally.losses),
                "first": tally.first,
                "last": tally.last,
            }
            for name, tally in self.versions.tallies.items()
        }
        return found

    def report(self, *, incumbent: bool) -> GroupReport:
        """Return how the group stands."""
        joined, expired, censored, lost = self.verdicts
        begun = self.begun
        return GroupReport(
            group=self.name,
            predictions=self.predictions,
            outcomes=joined,
            expired=expired,
            censored=censored,
            lost=lost,
            pending=self.pending,
            unscorable=self.unscorable,
            latency=dict(self._add_latency()),
            latency_sum=self._latency_sum,
            delay=_bins(self._delay),
            delay_sum=self.delay_sum,
            loss=self.loss,
            losses={} if begun is None else begun.scores.loss_sums(begun.loss),
            baseline_losses={} if begun is None else begun.contest.sums(incumbent=incumbent),
            skill={} if begun is None else begun.contest.skill(incumbent=incumbent),
            score_bins={} if begun is None else _score_bins(begun.scores),
            window_rows=len(self._window),
            window_metrics={} if begun is None else self._metrics_of_window(begun),
            detectors=() if begun is None else begun.watch.report(),
            version=self.versions.current,
            version_since=self.versions.since,
            retrain_deadline=self.policy.deadline,
            updated=self.updated,
        )

    def _metrics_of_window(self, begun: Begun) -> dict[str, float | None]:
        # Kept until rows come: most groups of many are quiet between two scrapes.
        if self._window_metrics is None:
            window = scores.scores_of(begun.task)
            window.add(self._window.block(begun.task))
            self._window_metrics = window.metrics(begun.loss)
        return dict(self._window_metrics)

    def snapshot(self) -> bytes:
        """Return the whole state, for :meth:`load`."""
        state: dict[str, Any] = {
            "predictions": self.predictions,
            "verdicts": self.verdicts,
            "unscorable": self.unscorable,
            "updated": self.updated,
            "complained": sorted(self.complained),
            "latency": (self._add_latency(), self._latency_sum),
            "delay": (packing.pack(self._delay), self.delay_sum),
            "versions": self.versions.snapshot(),
            "policy": self.policy.snapshot(),
            "loss": self.loss,
        }
        if (begun := self.begun) is not None:
            state["scores"] = begun.scores.snapshot()
            state["contest"] = begun.contest.snapshot()
            state["watch"] = begun.watch.snapshot()
            state["window"] = self._window.snapshot(begun.task)
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
        delay, self.delay_sum = state["delay"]
        self._delay = packing.ints(delay)
        self.versions.load(state["versions"])
        self.policy = RetrainPolicy.restore(self._model, self.name, self._settings.retrain, state["policy"])
        if "scores" in state and task is not None:
            self.begin(task, state["loss"], plan)
            assert self.begun is not None
            self.begun.scores = scores.restore(state["scores"])
            self.begun.contest.load(state["contest"])
            self.begun.watch.load(state["watch"])
            self._window.load(state["window"])


LOWEST_BIN: Final = int(quantiles.bins(np.array([quantiles.SMALLEST]))[0]) - 1
"""First bin of delays as :class:`Group` counts them; it holds 0."""
BINS_MAX: Final = 256
"""Bins of new counts that are kept until they are added up."""
COUNTS_MAX: Final = 16
"""The same of counts themselves, however few bins they have."""
_LATENCY = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_DELAY = {"p50": 0.5, "p95": 0.95}


def _bins(counts: Ints) -> dict[int, int]:
    places = np.flatnonzero(counts)
    found = dict(zip((places + LOWEST_BIN).tolist(), counts[places].tolist(), strict=True))
    zero = found.pop(LOWEST_BIN, 0)
    return {quantiles.ZERO: zero, **found} if zero else found


def _score_bins(scored: Scores) -> dict[tuple[int, str], int]:
    if not isinstance(scored, BinaryScores):
        return {}
    result = {}
    for number, (rows, positive) in enumerate(zip(scored.bin_count, scored.bin_positive, strict=True)):
        result[number, "true"], result[number, "false"] = int(positive), int(rows - positive)
    return result
