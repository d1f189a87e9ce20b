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
    predictions, offsets, log_times, verdicts, outcomes, outcome_offsets, outcome_log_times = zip(*rows, strict=True)
    classes, probabilities, score = _scores([p.scores for p in predictions])
    features = [bytes(p.features) for p in predictions]
    return ScoredBatch(
        model=model,
        partition=partition,
        group=names([p.group for p in predictions]),
        version=names([p.version for p in predictions]),
        series=names([p.series for p in predictions]),
        unit=names([p.unit for p in predictions]),
        verdict=np.array(verdicts, dtype=np.uint8),
        offset=_ints(offsets),
        outcome_offset=_ints(outcome_offsets),
        id_hash=hash64([p.prediction_id.encode() for p in predictions]),
        ts=_floats([p.ts for p in predictions]),
        log_time=_floats(log_times),
        outcome_ts=_floats([o.ts for o in outcomes]),
        outcome_log_time=_floats(outcome_log_times),
        prediction=values([p.prediction for p in predictions]),
        score=score,
        classes=classes,
        probabilities=probabilities,
        outcome=values([o.outcome for o in outcomes]),
        loss=_floats([o.loss for o in outcomes]),
        outcome_source=np.array([_SOURCE_CODES[o.source] for o in outcomes], dtype=np.uint8),
        latency=_floats([p.latency for p in predictions]),
        features=b"".join(features),
        feature_ends=np.cumsum(np.array(list(map(len, features)), dtype=np.int64)),
    )


def values(column: _Column) -> Values:
    """Return labels as a column; None has kind NONE. Ints count as numbers."""
    types = set(map(type, column))
    if len(types) == 1:
        kind = _KINDS.get(next(iter(types)), Kind.NUMBER)
        if kind == Kind.STRING:
            words, codes = _vocabulary(column)
            number = codes.astype(np.float64)
        else:
            words, number = (), _floats(column)
        return Values(kind=np.full(len(column), kind, dtype=np.uint8), number=number, words=words)
    kinds = np.array([_KINDS.get(type(value), Kind.NUMBER) for value in column], dtype=np.uint8)
    words, codes = _vocabulary([value if isinstance(value, str) else None for value in column])
    number = _floats([None if isinstance(value, str) else value for value in column])
    return Values(kind=kinds, number=np.where(kinds == Kind.STRING, codes, number), words=words)


_KINDS = {type(None): Kind.NONE, bool: Kind.BOOL, str: Kind.STRING}


def names(column: _Column) -> Names:
    """Return strings as codes into their vocabulary, which is in order of first appearance; None is -1."""
    words, codes = _vocabulary(column)
    return Names(code=codes, words=words)


def _vocabulary(column: _Column) -> tuple[tuple[str, ...], Codes]:
    words = dict.fromkeys(column)
    if len(words) == 1:
        only = next(iter(words))
        return (() if only is None else (only,)), np.full(len(column), -1 if only is None else 0, dtype=np.int32)
    words.pop(None, None)
    codes: dict[str | None, int] = {word: code for code, word in enumerate(words)}
    codes[None] = -1
    return tuple(words), np.array([codes[word] for word in column], dtype=np.int32)


def _scores(column: _Column) -> tuple[tuple[str, ...], Floats, Floats]:
    """Return the classes, their probabilities by row, and the scalar scores."""
    if dict not in set(map(type, column)):
        return (), np.empty((len(column), 0)), _floats(column)
    tables = [scores if isinstance(scores, dict) else {} for scores in column]
    classes = {name: place for place, name in enumerate(dict.fromkeys(name for table in tables for name in table))}
    width = len(classes)
    # A class that a row does not name has no probability there; a row without scores over classes knows of none.
    probabilities = np.repeat([0.0 if table else np.nan for table in tables], width)
    cells = [row * width + classes[name] for row, table in enumerate(tables) for name in table]
    probabilities[cells] = [share for table in tables for share in table.values()]
    scalar = _floats([None if isinstance(scores, dict) else scores for scores in column])
    return tuple(classes), probabilities.reshape(len(column), width), scalar


def _floats(column: _Column) -> Floats:
    """Return a column of numbers; None becomes nan."""
    return np.array(column, dtype=np.float64)


def _ints(column: _Column) -> Ints:
    return np.array(column, dtype=np.int64)
