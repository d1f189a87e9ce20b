"""What followed from the records, on its way to ``scored``: ends of predictions, and counts of accepted ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from streamapp.core import quantiles
from streamapp.core.events import Arrivals, Bytes, Codes, Floats, GroupArrivals, Ints, Kind, Names, ScoredBatch, Values
from streamapp.core.joining.groups import Groups
from streamapp.core.joining.rows import Rows, chosen, joined
from streamapp.core.joining.runs import OUTCOME
from streamapp.core.joining.table import PENDING
from streamapp.core.joining.words import Vocabularies, Words, firsts

CLASSES = 1024
"""Classes of one batch at most, unless one row has more: rows with others begin a new batch."""
SCORE_BINS = 64
"""Equal bins of [0, 1] in :attr:`GroupArrivals.scores`."""

Tables = Sequence[dict[str, float] | None]

BY_PREDICTION = 0
BY_OUTCOME = 1
BY_CLOCK = 2
"""What ended a prediction; at the same moment, in this order."""


@dataclass(slots=True)
class Ends:
    """Predictions that were given their verdict, in any order; all columns have the same length n."""

    rows: Rows
    """Of dtype :data:`streamapp.core.joining.table.PENDING`."""
    outcomes: Rows
    """Of dtype :data:`streamapp.core.joining.runs.OUTCOME`."""
    verdict: Bytes
    moment: Floats
    """Log time at which it was given."""
    cause: Bytes
    horizon: Floats
    """Log time until which it is remembered."""
    features: list[bytes]
    tables: Tables | None
    """Probabilities by class; None: nobody gave any."""

    def __len__(self) -> int:
        return len(self.rows)

    def ordered(self) -> "Ends":
        """Return them in the order in which they ended."""
        offset = self.rows["offset"]
        trigger = np.where(self.cause == BY_OUTCOME, self.outcomes["offset"], offset)
        order = np.lexsort((offset, trigger, self.cause, self.moment))
        return self.chosen(order)

    def chosen(self, order: Ints) -> "Ends":
        """Return some of them, in an order."""
        places = order.tolist()
        return Ends(
            rows=chosen(self.rows, order),
            outcomes=chosen(self.outcomes, order),
            verdict=self.verdict[order],
            moment=self.moment[order],
            cause=self.cause[order],
            horizon=self.horizon[order],
            features=[self.features[place] for place in places],
            tables=None if self.tables is None else [self.tables[place] for place in places],
        )


def together(parts: Sequence[Ends]) -> Ends:
    """Return all ends of several parts, at least one."""
    if len(parts) == 1:
        return parts[0]
    tables: list[dict[str, float] | None] | None = None
    if any(part.tables is not None for part in parts):
        tables = [table for part in parts for table in (part.tables or [None] * len(part))]
    return Ends(
        rows=joined([part.rows for part in parts]),
        outcomes=joined([part.outcomes for part in parts]),
        verdict=np.concatenate([part.verdict for part in parts]),
        moment=np.concatenate([part.moment for part in parts]),
        cause=np.concatenate([part.cause for part in parts]),
        horizon=np.concatenate([part.horizon for part in parts]),
        features=[row for part in parts for row in part.features],
        tables=tables,
    )


NO_ENDS = Ends(
    rows=np.empty(0, PENDING),
    outcomes=np.empty(0, OUTCOME),
    verdict=np.empty(0, np.uint8),
    moment=np.empty(0),
    cause=np.empty(0, np.uint8),
    horizon=np.empty(0),
    features=[],
    tables=None,
)


def batches(ends: Ends, partition: int, groups: Groups, words: Vocabularies) -> list[ScoredBatch]:
    """Return ends as columns, in their order: by model, in order of its first row.

    A model whose rows name very many classes has several batches.
    """
    if not len(ends):
        return []
    found = chosen(groups.settings, ends.rows["group"])
    models, place = firsts(found["model"], len(groups.models))
    if len(models) > 1:
        order = np.argsort(place.astype(np.uint16) if len(models) < 1 << 16 else place, kind="stable")
        ends, found = ends.chosen(order), chosen(found, order)
        cuts = np.concatenate(([0], np.cumsum(np.bincount(place)))).tolist()
    else:
        cuts = [0, len(ends)]
    columns = _Columns(ends, found["counted"], cuts, groups, words)
    made = []
    for index, (model, start, end) in enumerate(zip(models.tolist(), cuts, cuts[1:], strict=False)):
        name = groups.models[model]
        assert name is not None
        made += [columns.batch(name, partition, index, *cut) for cut in _by_classes(ends.tables, start, end)]
    return made


class _Columns:
    """Ends of one model after the other, as contiguous columns, to be cut into batches.

    What can be worked out for all models at once is: there may be hundreds of them, with a few rows each.
    """

    def __init__(self, ends: Ends, counted: Codes, cuts: list[int], groups: Groups, words: Vocabularies) -> None:
        rows, outcomes = ends.rows, ends.outcomes
        self._ends = ends
        self._rows = {name: rows[name].copy() for name in PENDING.names or ()}
        self._outcomes = {name: outcomes[name].copy() for name in OUTCOME.names or ()}
        self._group = _Words(counted, groups.names, cuts)
        self._version = _Words(self._rows["version"], words.version, cuts)
        self._series = _Words(self._rows["series"], words.series, cuts)
        self._unit = _Words(self._rows["unit"], words.unit, cuts)
        self._prediction = _Labels(self._rows["kind"], self._rows["number"], words.label)
        self._outcome = _Labels(self._outcomes["kind"], self._outcomes["number"], words.label)

    def batch(self, model: str, partition: int, place: int, start: int, end: int) -> ScoredBatch:
        """Return some rows of a model, the one at a place among all."""
        chosen = slice(start, end)
        rows, outcomes = self._rows, self._outcomes
        features = self._ends.features[chosen]
        tables = self._ends.tables
        classes, probabilities = _probabilities(None if tables is None else tables[chosen], end - start)
        return ScoredBatch(
            model=model,
            partition=partition,
            group=self._group.names(place, start, end),
            version=self._version.names(place, start, end),
            series=self._series.names(place, start, end),
            unit=self._unit.names(place, start, end),
            verdict=self._ends.verdict[chosen],
            offset=rows["offset"][chosen],
            outcome_offset=outcomes["offset"][chosen],
            id_hash=rows["id_hash"][chosen],
            ts=rows["ts"][chosen],
            log_time=rows["log_time"][chosen],
            outcome_ts=outcomes["ts"][chosen],
            outcome_log_time=outcomes["log_time"][chosen],
            prediction=self._prediction.values(chosen),
            score=rows["score"][chosen],
            classes=classes,
            probabilities=probabilities,
            outcome=self._outcome.values(chosen),
            loss=outcomes["loss"][chosen],
            outcome_source=outcomes["source"][chosen],
            latency=rows["latency"][chosen],
            features=b"".join(features),
            # After they were joined, which is what brings them into the cache.
            feature_ends=np.cumsum(np.fromiter(map(len, features), dtype=np.int64, count=len(features))),
        )


class _Words:
    """A column of codes, of which each batch has words of its own, in the order in which its rows name them.

    Args:
        codes: Rows of one model after the other, at least one.
        words: The vocabulary.
        cuts: Where the rows of each model begin, and the last ones end.
    """

    def __init__(self, codes: Codes, words: Words, cuts: list[int]) -> None:
        self._codes = codes
        self._words = words
        self._cuts = cuts
        self._sole = bool(np.logical_and.reduce(codes == codes[0]))
        """All rows of all models have the same code."""
        self._starts: list[int] = []
        """Where the words of each model begin among :attr:`_found`."""
        if self._sole:
            self._found = [] if codes[0] < 0 else [int(codes[0])]
            self._places = np.full(len(codes), min(int(codes[0]), 0), np.int32)
        elif (models := len(cuts) - 1) > 1:
            sizes = np.diff(cuts)
            own = np.repeat(np.arange(models) * len(words), sizes) + codes
            own[codes < 0] = -1
            found, places = firsts(own, models * len(words))
            # Rows of one model lie side by side, and so do its words.
            starts = np.searchsorted(found, np.arange(models + 1) * len(words))
            self._found, self._starts = (found % len(words)).tolist(), starts.tolist()
            self._places = np.where(places < 0, -1, places - np.repeat(starts[:-1], sizes)).astype(np.int32)

    def names(self, model: int, start: int, end: int) -> Names:
        """Return rows of the model at a place."""
        if self._sole:
            return Names(code=self._places[start:end], words=self._named(self._found))
        if not self._starts or (start, end) != (self._cuts[model], self._cuts[model + 1]):
            return self._words.names(self._codes[start:end])
        found = self._found[self._starts[model] : self._starts[model + 1]]
        return Names(code=self._places[start:end], words=self._named(found))

    def _named(self, codes: list[int]) -> tuple[str, ...]:
        return tuple([word for code in codes if (word := self._words[code]) is not None])


_STRING = int(Kind.STRING)
"""Looking up a member of an enumeration costs as much as comparing a column."""


class _Labels:
    """A column of labels, of which each batch has words of its own."""

    def __init__(self, kind: Bytes, number: Floats, labels: Words) -> None:
        self._kind = kind
        self._number = number
        self._labels = labels
        self._worded = bool(np.logical_or.reduce(kind == _STRING))

    def values(self, chosen: slice) -> Values:
        """Return some rows."""
        kind, number = self._kind[chosen], self._number[chosen]
        if not self._worded:
            return Values(kind=kind, number=number)
        words = kind == _STRING
        if not words.any():
            return Values(kind=kind, number=number)
        names = self._labels.names(np.where(words, number, -1).astype(np.int32))
        return Values(kind=kind, number=np.where(words, names.code, number), words=names.words)


def _by_classes(tables: Tables | None, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut rows so that the classes of a batch stay few: its probabilities are a dense table."""
    classes: set[str] = set()
    for index in range(start, end) if tables is not None else ():
        table = tables[index]  # type: ignore[index]
        if table is not None and not classes.issuperset(table):
            before = len(classes)
            classes.update(table)
            if before and len(classes) > CLASSES:
                yield start, index
                start = index
                classes = set(table)
    yield start, end


def _probabilities(tables: Tables | None, n: int) -> tuple[tuple[str, ...], Floats]:
    """Return the classes, and their probabilities by row, shape (n, classes).

    A class that a row with probabilities does not name has 0 there. A row without any is nan.
    """
    if tables is None or tables.count(None) == n:
        return (), np.empty((n, 0))
    given = [table or {} for table in tables]
    classes = {name: place for place, name in enumerate(dict.fromkeys(name for table in given for name in table))}
    width = len(classes)
    shares = np.repeat([0.0 if table else np.nan for table in given], width)
    cells = [row * width + classes[name] for row, table in enumerate(given) for name in table]
    shares[cells] = [share for table in given for share in table.values()]
    return tuple(classes), shares.reshape(n, width)


def arrivals(rows: Rows, partition: int, groups: Groups) -> tuple[Arrivals, ...]:
    """Count accepted predictions by model, in order of the first, and group.

    Args:
        rows: As they were accepted, in order of offset.
        partition: Where they come from.
        groups: Says what they count under.
    """
    if not len(rows):
        return ()
    found = chosen(groups.settings, rows["group"])
    pair = found["model"].astype(np.int64) * len(groups.names) + found["counted"]
    pairs, place = _distinct(pair)
    latency, score = rows["latency"], rows["score"]
    counted = _Counts(place, len(pairs), latency, score)
    log_time = np.zeros(len(pairs))
    np.maximum.at(log_time, place, rows["log_time"])
    by_model: dict[int, list[int]] = {}
    for index, number in enumerate(pairs.tolist()):
        by_model.setdefault(number // len(groups.names), []).append(index)
    return tuple(
        Arrivals(
            model=str(groups.models[model]),
            partition=partition,
            log_time=float(log_time[places].max()),
            groups=tuple(
                counted.group(str(groups.names[int(pairs[index]) % len(groups.names)]), index) for index in places
            ),
        )
        for model, places in by_model.items()
    )


class _Counts:
    """Counts by group, of all groups at once."""

    def __init__(self, place: Ints, n: int, latency: Floats, score: Floats) -> None:
        self._predictions = np.bincount(place, minlength=n)
        given = ~np.isnan(latency)
        self._sums = np.bincount(place[given], weights=latency[given], minlength=n)
        self._latency = _histograms(place[given], quantiles.bins(latency[given]), n)
        given = ~np.isnan(score)
        bins = np.minimum(score[given] * SCORE_BINS, SCORE_BINS - 1).astype(np.int64)
        self._scores = _histograms(place[given], bins, n)

    def group(self, name: str, index: int) -> GroupArrivals:
        return GroupArrivals(
            group=name,
            predictions=int(self._predictions[index]),
            latency=self._latency[index],
            latency_sum=float(self._sums[index]),
            scores=self._scores[index],
        )


def _histograms(place: Ints, bins: Ints, n: int) -> list[dict[int, int]]:
    """Return how many values lie in each bin, lowest bin first, by group."""
    if not len(bins):
        return [{} for _ in range(n)]
    low = int(bins.min())
    width = int(bins.max()) - low + 1
    if n * width <= 4 * len(bins) + 1024:
        counts = np.bincount(place * np.int64(width) + (bins - low), minlength=n * width)
        cells = np.flatnonzero(counts)
        counts = counts[cells]
    else:
        cells, counts = np.unique(place * np.int64(width) + (bins - low), return_counts=True)
    # The cells of a group lie side by side.
    ends = np.searchsorted(cells, np.arange(n + 1) * width).tolist()
    pairs = list(zip((low + cells % width).tolist(), counts.tolist(), strict=True))
    return [dict(pairs[start:end]) for start, end in pairwise(ends)]


def _distinct(numbers: Ints) -> tuple[Ints, NDArray[np.int64]]:
    """Return distinct numbers in order of first appearance, and each row's place among them."""
    if numbers[0] == numbers[-1] and numbers.min() == numbers.max():
        return numbers[:1], np.zeros(len(numbers), np.int64)
    low = int(numbers.min())
    found, place = firsts(numbers - low, int(numbers.max()) - low + 1)
    return found + low, place.astype(np.int64)
