"""Rows of the joiner as columns: resolved predictions as :class:`ScoredBatch`, arrived ones as :class:`Arrivals`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from streamapp.core import quantiles
from streamapp.core.events import (
    SOURCES,
    Arrivals,
    Codes,
    Floats,
    GroupArrivals,
    Ints,
    Kind,
    Names,
    Outcome,
    Prediction,
    ScoredBatch,
    Values,
)
from streamapp.core.hashing import hash64

Row = tuple[Prediction, int, float, int, Outcome, int, float]
"""Prediction, its offset and log time, verdict, outcome, its offset and log time."""

NO_OUTCOME = Outcome(prediction_id="", ts=float("nan"))
"""Stands in a row for the outcome that never came."""
CLASSES = 1024
"""Classes of one batch at most, unless one row has more: rows with others begin a new batch."""
SCORE_BINS = 64
"""Equal bins of [0, 1] in :attr:`GroupArrivals.scores`."""

_Column = Sequence[Any]
_SOURCE_CODES = {source: code for code, source in enumerate(SOURCES)}


def scored(model: str, partition: int, rows: Sequence[Row]) -> list[ScoredBatch]:
    """Return the rows of one model as columns, in their order: one batch, or several if they name very many classes."""
    return [_batch(model, partition, part) for part in _by_classes(rows)]


def arrivals(model: str, partition: int, log_time: float, groups: Mapping[str, Sequence[Prediction]]) -> Arrivals:
    """Return what came in for one model, groups in the given order."""
    return Arrivals(
        model=model,
        partition=partition,
        log_time=log_time,
        groups=tuple(_group(group, predictions) for group, predictions in groups.items()),
    )


def _group(group: str, predictions: Sequence[Prediction]) -> GroupArrivals:
    latency = _floats([p.latency for p in predictions])
    latency = latency[~np.isnan(latency)]
    scores = _floats([None if isinstance(p.scores, dict) else p.scores for p in predictions])
    bins = np.minimum(scores[~np.isnan(scores)] * SCORE_BINS, SCORE_BINS - 1).astype(np.int64)
    counts = np.bincount(bins, minlength=SCORE_BINS).tolist()
    return GroupArrivals(
        group=group,
        predictions=len(predictions),
        latency=quantiles.count(latency),
        latency_sum=float(latency.sum()),
        scores={index: n for index, n in enumerate(counts) if n},
    )


def _by_classes(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Cut rows so that the classes of a batch stay few: its probabilities are a dense table."""
    start, classes = 0, set[str]()
    for index, row in enumerate(rows):
        scores = row[0].scores
        if scores.__class__ is dict and not classes.issuperset(scores):
            classes.update(scores)
            if len(classes) > CLASSES and index > start:
                yield rows[start:index]
                start, classes = index, set(scores)
    if start < len(rows):
        yield rows[start:] if start else rows


def _batch(model: str, partition: int, rows: Sequence[Row]) -> ScoredBatch:
    group, version, series, unit = _Words(), _Words(), _Words(), _Words()
    answer, truth, scores = _Labels(), _Labels(), _Scores()
    ts, log_time, outcome_ts, outcome_log_time, loss, latency = (_Floats() for _ in range(6))
    offset, outcome_offset, lengths = _Integers(), _Integers(), _Integers()
    verdict, source, features = _Bytes(), _Bytes(), []
    hashes = []
    # Block by block, so that what one column touches is still in the cache for the next.
    for start in range(0, len(rows), BLOCK):
        predictions, offsets, log_times, verdicts, outcomes, outcome_offsets, outcome_log_times = zip(
            *rows[start : start + BLOCK], strict=True
        )
        group.add([p.group for p in predictions])
        version.add([p.version for p in predictions])
        series.add([p.series for p in predictions])
        unit.add([p.unit for p in predictions])
        verdict.add(verdicts)
        offset.add(offsets)
        outcome_offset.add(outcome_offsets)
        hashes.append(hash64([p.prediction_id.encode() for p in predictions]))
        ts.add([p.ts for p in predictions])
        log_time.add(log_times)
        outcome_ts.add([o.ts for o in outcomes])
        outcome_log_time.add(outcome_log_times)
        answer.add([p.prediction for p in predictions])
        scores.add([p.scores for p in predictions])
        truth.add([o.outcome for o in outcomes])
        loss.add([o.loss for o in outcomes])
        source.add([_SOURCE_CODES[o.source] for o in outcomes])
        latency.add([p.latency for p in predictions])
        objects = [bytes(p.features) for p in predictions]
        features += objects
        lengths.add(list(map(len, objects)))
    classes, probabilities = scores.table()
    return ScoredBatch(
        model=model,
        partition=partition,
        group=group.names(),
        version=version.names(),
        series=series.names(),
        unit=unit.names(),
        verdict=verdict.array(),
        offset=offset.array(),
        outcome_offset=outcome_offset.array(),
        id_hash=np.concatenate(hashes),
        ts=ts.array(),
        log_time=log_time.array(),
        outcome_ts=outcome_ts.array(),
        outcome_log_time=outcome_log_time.array(),
        prediction=answer.values(),
        score=scores.array(),
        classes=classes,
        probabilities=probabilities,
        outcome=truth.values(),
        loss=loss.array(),
        outcome_source=source.array(),
        latency=latency.array(),
        features=b"".join(features),
        feature_ends=np.cumsum(lengths.array()),
    )


class _Floats:
    """Numbers; None becomes nan."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, column: _Column) -> None:
        try:
            # Four times as fast as numpy's own way through a list.
            self._parts.append(struct.pack(f"{len(column)}d", *column))
        except struct.error:
            self._parts.append(np.array(column, dtype=np.float64).tobytes())

    def array(self) -> Floats:
        return np.frombuffer(b"".join(self._parts), dtype=np.float64)


class _Integers:
    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, column: _Column) -> None:
        self._parts.append(struct.pack(f"{len(column)}q", *column))

    def array(self) -> Ints:
        return np.frombuffer(b"".join(self._parts), dtype=np.int64)


class _Bytes:
    """Numbers from 0 to 255."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, column: _Column) -> None:
        self._parts.append(bytes(column))

    def array(self) -> Bytes:
        return np.frombuffer(b"".join(self._parts), dtype=np.uint8)


class _Words:
    """Strings as codes into a vocabulary, which is in order of first appearance; None is -1."""

    def __init__(self) -> None:
        self._codes: dict[str | None, int] = {}
        self._parts: list[Codes] = []

    def add(self, column: _Column) -> None:
        first = column[0]
        if column.count(first) == len(column):
            self._parts.append(np.full(len(column), self._code(first), dtype=np.int32))
            return
        for word in dict.fromkeys(column):
            self._code(word)
        codes = self._codes
        self._parts.append(np.array([codes[word] for word in column], dtype=np.int32))

    def _code(self, word: str | None) -> int:
        if word is None:
            self._codes[None] = -1
        return self._codes.setdefault(word, len(self._codes) - (None in self._codes))

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(word for word in self._codes if word is not None)

    def codes(self) -> Codes:
        return np.concatenate(self._parts)

    def names(self) -> Names:
        return Names(code=self.codes(), words=self.words)


class _Labels:
    """Labels of any type; ints count as numbers."""

    def __init__(self) -> None:
        self._kinds: list[Bytes] = []
        self._numbers: list[Floats] = []
        self._words = _Words()

    def add(self, column: _Column) -> None:
        types = set(map(type, column))
        if len(types) == 1:
            self._add(column, _KINDS.get(types.pop(), Kind.NUMBER))
            return
        kinds = np.array([_KINDS.get(type(label), Kind.NUMBER) for label in column], dtype=np.uint8)
        numbers = _floats([None if isinstance(label, str) else label for label in column])
        strings = kinds == Kind.STRING
        if strings.any():
            words = _Words()
            words._codes = self._words._codes
            words.add([label for label in column if isinstance(label, str)])
            numbers[strings] = words.codes()
        self._kinds.append(kinds)
        self._numbers.append(numbers)

    def _add(self, column: _Column, kind: Kind) -> None:
        """Add labels that are all of one kind."""
        self._kinds.append(np.full(len(column), kind, dtype=np.uint8))
        if kind == Kind.STRING:
            self._numbers.append(self._places(column))
        elif kind == Kind.NONE:
            self._numbers.append(np.full(len(column), np.nan))
        else:
            self._numbers.append(_floats(column))

    def values(self) -> Values:
        return Values(kind=np.concatenate(self._kinds), number=np.concatenate(self._numbers), words=self._words.words)
