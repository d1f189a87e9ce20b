"""Real data sets that River's wheel brings along, and how each of them can change.

- ``shuttle``: sensors of a space shuttle's radiator, anomalous or not (binary). Anomalies are drawn more often than
  the data have them, a third instead of 7 %, so that a minute shows enough of them.
- ``segments``: patches of outdoor pictures in seven classes (multiclass).
- ``approval``: five polls on a president, and their weighted average (regression, one series, in order of time). It is
  too short to set rows aside, so its models have seen every row, and the stream begins anew when it ends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from statistics import median

from river import datasets

from streamapp.core.settings import Label, Task
from streamapp.errors import ConfigError

Features = dict[str, float]
Row = tuple[Features, Label]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Rows to learn from and rows to answer."""

    name: str
    task: Task
    rows: tuple[Row, ...]
    train: int
    """How many rows a service's model has learned before the stream begins."""
    changed: Callable[[Row], Row]
    """The same row in a world where the relation between features and outcome is another one."""
    region: tuple[str, float]
    """A feature and its median: where only the inputs change, they come from above it."""
    series: str | None = None
    """Rows come in order, as observations of this series; None: they are drawn at random."""
    weights: tuple[tuple[Label, float], ...] = ()
    """Outcomes and how often they are drawn; empty: as often as the data have them."""

    def draw(self, random: Random) -> "Source":
        """Return a source of rows, without end."""
        return Source(self, random)


class Source:
    """Rows of a data set, one after the other."""

    def __init__(self, dataset: Dataset, random: Random) -> None:
        self._dataset = dataset
        self._random = random
        self._next = dataset.train
        self._by_outcome = [
            (tuple(row for row in dataset.rows if row[1] == label), weight) for label, weight in dataset.weights
        ]

    def row(self, *, from_region: bool = False) -> Row:
        """Return the next row; with *from_region*, the next whose inputs lie in the data set's region."""
        feature, least = self._dataset.region
        while True:
            row = self._row()
            if not from_region or row[0][feature] >= least:
                return row

    def _row(self) -> Row:
        rows = self._dataset.rows
        if self._dataset.series is not None:
            row = rows[self._next % len(rows)]
            self._next += 1
            return row
        point = self._random.random()
        for candidates, weight in self._by_outcome:
            if point < weight:
                rows = candidates
                break
            point -= weight
        return rows[self._random.randrange(len(rows))]


def load(name: str) -> Dataset:
    """Return a data set by its name.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in DATASETS:
        raise ConfigError(f"there is no data set {name!r}: choose one of {', '.join(DATASETS)}")
    return DATASETS[name]()


def _shuttle() -> Dataset:
    rows = tuple((features, bool(outcome)) for features, outcome in datasets.Shuttle())
    return Dataset(
        name="shuttle",
        task="binary",
        rows=rows,
        train=1500,
        changed=_rotate(rows),
        region=_upper_half(rows, "f1"),
        weights=((True, 1 / 3), (False, 2 / 3)),
    )


def _segments() -> Dataset:
    rows = tuple(datasets.ImageSegments())  # type: ignore[no-untyped-call]
    return Dataset(
        name="segments",
        task="multiclass",
        rows=rows,
        train=1500,
        changed=_rotate(rows),
        region=_upper_half(rows, "region-centroid-col"),
    )


def _approval() -> Dataset:
    rows = tuple(
        ({name: value for name, value in features.items() if name != "ordinal_date"}, outcome)
        for features, outcome in datasets.TrumpApproval()  # type: ignore[no-untyped-call]
    )
    return Dataset(
        name="approval",
        task="regression",
        rows=rows,
        train=len(rows),
        changed=_raise_outcome(5.0),
        region=_upper_half(rows, "gallup"),
        series="approval",
    )


def _rotate(rows: tuple[Row, ...]) -> Callable[[Row], Row]:
    """Return a world where each feature carries its neighbour's value, as if cables had been swapped."""
    names = list(rows[0][0])
    neighbours = dict(zip(names, names[1:] + names[:1], strict=True))

    def changed(row: Row) -> Row:
        features, outcome = row
        return {name: features[other] for name, other in neighbours.items()}, outcome

    return changed


def _raise_outcome(by: float) -> Callable[[Row], Row]:
    """Return a world where the same inputs mean more."""

    def changed(row: Row) -> Row:
        features, outcome = row
        assert isinstance(outcome, float)
        return features, outcome + by

    return changed


def _upper_half(rows: tuple[Row, ...], feature: str) -> tuple[str, float]:
    return feature, median(features[feature] for features, _ in rows)


DATASETS: dict[str, Callable[[], Dataset]] = {"shuttle": _shuttle, "segments": _segments, "approval": _approval}
"""Data sets by name; calling one reads it."""
