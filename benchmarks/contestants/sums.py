"""The sums that every contestant but streamapp keeps, and the ``/metrics`` that shows them.

By model and group: pairs, hits, Brier loss, counts by 64 bins of the score for the AUC, misses of a persistence
baseline (the model's outcome that came before), and ADWIN on every loss, as streamapp's monitor feeds it.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from river.drift import ADWIN

BINS = 64
_EDGE = BINS - 1

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Group:
    """Sums of one group, taken row by row or as columns."""

    def __init__(self) -> None:
        self.pairs = self.hits = self.misses = self.drifts = 0
        self.brier = 0.0
        self._singles = [0] * (2 * BINS)
        self._columns = np.zeros(2 * BINS, np.int64)
        self._adwin: Any = ADWIN()  # type: ignore[no-untyped-call]
        self._shown = 0
        """Losses that it has seen since its last alarm."""

    def add(self, score: float, hit: bool, truth: bool, known: bool) -> None:
        """Take one row.

        Args:
            score: Probability that the outcome is true.
            hit: Whether the answer was right.
            truth: The outcome.
            known: What persistence answers: the outcome that came before.
        """
        loss = (score - truth) ** 2
        self.hits += hit
        self.brier += loss
        self.misses += known is not truth
        self._singles[min(int(score * BINS), _EDGE) + (BINS if truth else 0)] += 1
        self._adwin.update(loss)
        self.drifts += self._adwin.drift_detected
        self.pairs += 1

    def add_columns(self, score: Floats, hit: Bools, truth: Bools, known: Bools) -> None:
        """Take rows, in order; the arguments are as for :meth:`add`, of shape (n,)."""
        loss = np.square(score - truth)
        self.hits += int(np.count_nonzero(hit))
        self.brier += float(loss.sum())
        self.misses += int(np.count_nonzero(known != truth))
        place = np.minimum((score * BINS).astype(np.intp), _EDGE)
        place[truth] += BINS
        self._columns += np.bincount(place, minlength=2 * BINS)
        self._show(loss.tolist())
        self.pairs += len(score)

    def _show(self, losses: list[float]) -> None:
        """Update ADWIN in stretches that end where it looks for a cut, as streamapp does."""
        adwin, start = self._adwin, 0
        while start < len(losses):
            if adwin.drift_detected:
                adwin._reset()
                self._shown = 0
            update = adwin._helper.update
            end = min(start + adwin.clock - self._shown % adwin.clock, len(losses))
            deque(map(update, losses[start : end - 1]), maxlen=0)
            adwin._drift_detected = update(losses[end - 1])
            self.drifts += adwin._drift_detected
            self._shown += end - start
            start = end

    def auc(self) -> float:
        """Return the area under the ROC curve by the bins; 0.5 where it is undefined."""
        counts = self._columns + np.array(self._singles)
        negative, positive = counts[:BINS], counts[BINS:]
        both = float(negative.sum()) * float(positive.sum())
        if not both:
            return 0.5
        below = np.cumsum(negative) - negative
        return float(np.dot(positive, below + 0.5 * negative)) / both


class Scoreboard(Collector):
    """The groups of all models, and what Prometheus sees of them: worked out at a scrape, never before."""

    def __init__(self) -> None:
        self.groups: dict[tuple[str, str], Group] = {}
        self._known: dict[str, bool] = {}

    def group(self, model: str, name: str) -> Group:
        """Return the sums of a group."""
        group = self.groups.get((model, name))
        if group is None:
            group = self.groups[model, name] = Group()
        return group

    def add(self, model: str, group: str, score: float, answer: bool, truth: bool) -> None:
        """Take one joined pair."""
        self.group(model, group).add(score, answer is truth, truth, self.before(model, truth))

    def before(self, model: str, last: bool) -> bool:
        """Return the model's newest outcome so far; from now on it is *last*."""
        known = self._known.get(model, False)
        self._known[model] = last
        return known

    def serve(self) -> None:
        """Serve ``/metrics`` on a free port, and print where."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        server, _ = start_http_server(0, "127.0.0.1", registry=registry)
        print(f"metrics at http://127.0.0.1:{server.server_port}/metrics", flush=True)

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        labels = ("model", "group")
        pairs = CounterMetricFamily("bench_pairs", "Pairs joined.", labels=labels)
        hits = CounterMetricFamily("bench_hits", "Answers that were right.", labels=labels)
        brier = CounterMetricFamily("bench_brier", "Sum of Brier losses.", labels=labels)
        misses = CounterMetricFamily("bench_persistence_misses", "Misses of persistence.", labels=labels)
        drifts = CounterMetricFamily("bench_drifts", "Alarms of ADWIN.", labels=labels)
        auc = GaugeMetricFamily("bench_auc", "Area under the ROC curve.", labels=labels)
        for key, group in list(self.groups.items()):
            pairs.add_metric(key, group.pairs)
            hits.add_metric(key, group.hits)
            brier.add_metric(key, group.brier)
            misses.add_metric(key, group.misses)
            drifts.add_metric(key, group.drifts)
            auc.add_metric(key, group.auc())
        yield from (pairs, hits, brier, misses, drifts, auc)
