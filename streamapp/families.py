"""The families of one scrape: samples under the catalogue's names, and labels that take so many values at most."""

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.samples import Sample

from streamapp.catalogue import FAMILIES, Family
from streamapp.core.joining.tally import OVERFLOWN
from streamapp.pace import Pace

OTHER = "other"
"""What label values become beyond the cap."""
LATENCY_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends of the latency buckets, seconds."""
DELAY_BOUNDS = (0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14400.0, 43200.0, 86400.0, 259200.0, 604800.0)
"""Upper ends of the buckets of outcome delays, seconds."""
BOUNDS = {
    "streamapp_prediction_latency_seconds": LATENCY_BOUNDS,
    "streamapp_outcome_delay_seconds": DELAY_BOUNDS,
}
SUM, COUNT = -1, -2
"""Parts of a summary or histogram beside its buckets."""

Labels = tuple[str, ...]
Rows = dict[Labels, Any]
"""By label values, the number of a gauge or counter; of a summary or histogram, numbers by part."""
Key = tuple[str, Labels, int]
"""Family, label values, and part: :data:`SUM`, :data:`COUNT` or the number of a bucket; 0 for a plain counter."""

FAMILY = {family.name: family for family in FAMILIES}
"""The catalogue by name."""


class Vocabulary:
    """The values that each label has had, up to a cap.

    A value that became :data:`OTHER` stays that until it is released, so that what is added up there never falls: room
    goes to values that were not seen before. Once a hundred times the cap wait for it, nobody can say any more who was
    seen, and no room is given.
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._most = 100 * cap
        self._known: dict[str, set[str]] = {}
        self._over: dict[str, set[str]] = {}
        self._overflown: dict[str, int] = {}

    def of(self, label: str, value: str) -> str:
        """Return the value, or :data:`OTHER` once the label has had too many."""
        known = self._known.setdefault(label, set())
        if value in known or value == OTHER:
            return value
        over = self._over.get(label, set())
        if value in over or len(over) >= self._most:
            return OTHER
        if len(known) < self._cap:
            known.add(value)
            return value
        self._over.setdefault(label, over).add(value)
        self._overflown[label] = self._overflown.get(label, 0) + 1
        return OTHER

    def capped(self, family: Family, labels: Labels) -> Labels:
        """Return label values of a family as they are shown."""
        capped = tuple(
            self.of(label, clean(value)) if label not in _CLOSED else clean(value)
            for label, value in zip(family.labels, labels, strict=True)
        )
        return labels if capped == labels else capped  # the one that is there already: they are many

    def release(self, label: str, value: str) -> None:
        """Make room for another value: this one is not used any more."""
        self._known.get(label, set()).discard(value)
        over = self._over.get(label, set())
        if len(over) < self._most:
            over.discard(value)

    def overflow(self) -> dict[str, int]:
        """Return how many values became :data:`OTHER`, by label."""
        return dict(self._overflown)


class Families:
    """The families of one scrape.

    Args:
        labels: Their values so far.
        pace: At which large ones are made, and gone through.
    """

    def __init__(self, labels: Vocabulary, pace: Pace) -> None:
        self._labels = labels
        self._pace = pace
        self._rows: dict[str, Rows] = {family.name: {} for family in FAMILIES}

    def __iter__(self) -> Iterator[Metric]:
        """Yield every family, with or without samples, in the order of the catalogue."""
        for family in FAMILIES:
            metric = _metric(family)
            # Who writes them goes through them, and asks for no more of a list than that.
            metric.samples = Samples(family, self._rows[family.name], self._pace)  # type: ignore[assignment]
            yield metric

    def gauge(self, name: str, labels: Labels, value: float | None) -> None:
        """Add a gauge; None is no sample. Where values of labels have overflown the first one is shown."""
        if value is not None:
            self._rows[name].setdefault(self._labels.capped(FAMILY[name], labels), value)

    def counters(self, values: Mapping[Key, float]) -> None:
        """Add counters, summaries and histograms; those whose labels have overflown are added up."""
        for (name, labels, part), value in values.items():
            self._pace.step()
            family = FAMILY[name]
            rows, labels = self._rows[name], self._labels.capped(family, labels)
            if family.type == "counter":
                rows[labels] = rows.get(labels, 0.0) + value
            else:
                parts = rows.setdefault(labels, {})
                parts[part] = parts.get(part, 0.0) + value

    def overflow(self, events: Mapping[tuple[str, str], int], tasks: Mapping[tuple[str], int]) -> None:
        """Add what went beyond the most: values of labels, predictions that count as other, and what tasks left out."""
        counts = self._labels.overflow() | {label: count for (label,), count in tasks.items()}
        for mark in OVERFLOWN:
            if count := events.get(("predictions", mark), 0):
                label = mark.removeprefix("other_")
                counts[label] = counts.get(label, 0) + count
        for label, count in counts.items():
            self._rows["streamapp_label_overflow_total"][label,] = count


class Samples:
    """The samples of one family, each made when its turn comes.

    Made beforehand they would be so many objects at a time that the garbage collector, which holds every thread up,
    would go through them.

    Args:
        family: Theirs.
        rows: What they show.
        pace: At which somebody goes through them.
    """

    def __init__(self, family: Family, rows: Rows, pace: Pace) -> None:
        self._family = family
        self._rows = rows
        self._pace = pace

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples, with rests."""
        # The libraries' families agree on everything but the arguments of add_metric.
        one: Any = _metric(self._family)
        bounds = BOUNDS.get(self._family.name, ())
        names = [*map(str, bounds), "+Inf"]
        for labels, row in self._rows.items():
            self._pace.step()
            if isinstance(one, HistogramMetricFamily):
                below = accumulate(row.get(bucket, 0.0) for bucket in range(len(names)))
                one.add_metric(labels, list(zip(names, below, strict=True)), row.get(SUM, 0.0))
            elif isinstance(one, SummaryMetricFamily):
                one.add_metric(labels, int(row.get(COUNT, 0.0)), row.get(SUM, 0.0))
            else:
                one.add_metric(labels, row)
            yield from one.samples
            one.samples.clear()


_CLOSED = frozenset(
    {
        "topic",
        "status",
        "partition",
        "role",
        "reason",
        "kind",
        "severity",
        "state",
        "task",
        "bin",
        "metric",
        "loss",
        "version",
    }
)
"""Labels whose values are ours and few; of versions only those that answer now are shown."""


def clean(value: str) -> str:
    """Return a value that can be written: lone surrogates would end the scrape."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def _metric(family: Family) -> Metric:
    kinds: dict[str, type[Metric]] = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
        "summary": SummaryMetricFamily,
    }
    return kinds[family.type](family.name, family.help, labels=family.labels)  # type: ignore[call-arg]
