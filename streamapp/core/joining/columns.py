"""The joiner's results as columns: resolved predictions as :class:`ScoredBatch`, accepted ones as counts."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from streamapp.core import quantiles
from streamapp.core.events import SOURCES, GroupArrivals, Hashes, Names, Outcome, Prediction, ScoredBatch
from streamapp.core.hashing import hash64
from streamapp.core.joining.accumulators import ByteColumn, FloatColumn, IntColumn, LabelColumn, NameColumn, ScoreColumn
from streamapp.core.joining.roster import Roster

Row = tuple[Prediction, int, float, int, Outcome, int, float]
"""Prediction, its offset and log time, verdict, outcome, its offset and log time."""

NO_OUTCOME = Outcome(prediction_id="", ts=float("nan"))
"""Stands in a row for the outcome that never came."""
CLASSES = 1024
"""Classes of one batch at most, unless one row has more: rows with others begin a new batch."""
BLOCK = 1024
"""Rows that are turned into columns at once."""
SCORE_BINS = 64
"""Equal bins of [0, 1] in :attr:`GroupArrivals.scores`."""

_SOURCE_CODES = {source: code for code, source in enumerate(SOURCES)}


def scored(model: str, partition: int, rows: Sequence[Row]) -> list[ScoredBatch]:
    """Return the rows of one model as columns, in their order: one batch, or several if they name very many classes."""
    model_rows = ModelRows(model, partition)
    model_rows.rows.extend(rows)
    return [batch for batch, _ in model_rows.take()]


class ModelRows:
    """Rows of one model on their way into columns.

    Args:
        model: Whose rows they are.
        partition: Where they come from.
        roster: Says under which names groups count; None: each under its own.
    """

    __slots__ = ("_builders", "_classes", "_partition", "_roster", "model", "rows")

    def __init__(self, model: str, partition: int, roster: Roster | None = None) -> None:
        self.model = model
        self.rows: list[Row] = []
        """Rows that are not in columns yet; append to it."""
        self._partition = partition
        self._roster = roster
        self._builders: list[_Builder] = []
        self._classes: set[str] = set()
        """Of the last builder."""

    def __len__(self) -> int:
        return len(self.rows) + sum(builder.rows for builder in self._builders)

    def fold(self) -> None:
        """Put :attr:`rows` into columns: sooner is cheaper, while they are still in the processor's cache."""
        if not self._builders and self.rows:
            self._builders.append(_Builder())
        for part in self._by_classes():
            for start in range(0, len(part), BLOCK):
                self._builders[-1].add(part[start : start + BLOCK])
        self.rows.clear()

    def take(self) -> list[tuple[ScoredBatch, Names]]:
        """Return all rows since the last time, in their order: one batch, or several if they name very many classes.

        Beside each batch stand the groups that the predictions themselves named; the batch has what they count under.
        """
        self.fold()
        batches = []
        for builder in self._builders:
            batch = builder.batch(self.model, self._partition)
            batches.append((self._counted(batch), batch.group))
        self._builders.clear()
        self._classes.clear()
        return batches

    def _counted(self, batch: ScoredBatch) -> ScoredBatch:
        """Return a batch with the groups that its rows count under."""
        words = batch.group.words
        counted = words if self._roster is None else tuple(self._roster.group(self.model, word) for word in words)
        if counted == words:
            return batch
        places = {word: place for place, word in enumerate(dict.fromkeys(counted))}
        code = np.array([places[word] for word in counted], dtype=np.int32)[batch.group.code]
        return replace(batch, group=Names(code=code, words=tuple(places)))

    def _by_classes(self) -> Iterator[Sequence[Row]]:
        """Cut rows so that the classes of a batch stay few: its probabilities are a dense table."""
        start, classes = 0, self._classes
        for index, row in enumerate(self.rows):
            scores = row[0].scores
            if scores.__class__ is dict and not classes.issuperset(scores):
                before = len(classes)
                classes.update(scores)
                if before and len(classes) > CLASSES:
                    if index > start:
                        yield self.rows[start:index]
                    self._builders.append(_Builder())
                    start = index
                    classes.clear()
                    classes.update(scores)
        yield self.rows[start:] if start else self.rows


class _Builder:
    """The columns of one batch."""

    def __init__(self) -> None:
        self.rows = 0
        self._group, self._version, self._series, self._unit = (NameColumn() for _ in range(4))
        self._ts, self._log_time, self._latency = FloatColumn(), FloatColumn(), FloatColumn()
        self._outcome_ts, self._outcome_log_time, self._loss = FloatColumn(), FloatColumn(), FloatColumn()
        self._offset, self._outcome_offset, self._feature_lengths = IntColumn(), IntColumn(), IntColumn()
        self._verdict, self._source = ByteColumn(), ByteColumn()
        self._prediction, self._score, self._outcome = LabelColumn(), ScoreColumn(), LabelColumn()
        self._hashes: list[Hashes] = []
        self._features: list[bytes] = []

    def add(self, rows: Sequence[Row]) -> None:
        """Append some rows, at least one."""
        predictions, offsets, log_times, verdicts, outcomes, outcome_offsets, outcome_log_times = zip(
            *rows, strict=True
        )
        features = [bytes(p.features) for p in predictions]
        self.rows += len(rows)
        self._group.add([p.group for p in predictions])
        self._version.add([p.version for p in predictions])
        self._series.add([p.series for p in predictions])
        self._unit.add([p.unit for p in predictions])
        self._verdict.add(verdicts)
        self._offset.add(offsets)
        self._outcome_offset.add(outcome_offsets)
        self._hashes.append(hash64([p.prediction_id.encode() for p in predictions]))
        self._ts.add([p.ts for p in predictions])
        self._log_time.add(log_times)
        self._outcome_ts.add([o.ts for o in outcomes])
        self._outcome_log_time.add(outcome_log_times)
        self._prediction.add([p.prediction for p in predictions])
        self._score.add([p.scores for p in predictions])
        self._outcome.add([o.outcome for o in outcomes])
        self._loss.add([o.loss for o in outcomes])
        self._source.add([_SOURCE_CODES[o.source] for o in outcomes])
        self._latency.add([p.latency for p in predictions])
        self._features.append(b"".join(features))
        self._feature_lengths.add(list(map(len, features)))

    def batch(self, model: str, partition: int) -> ScoredBatch:
        """Return the batch."""
        classes, probabilities = self._score.probabilities()
        return ScoredBatch(
            model=model,
            partition=partition,
            group=self._group.array(),
            version=self._version.array(),
            series=self._series.array(),
            unit=self._unit.array(),
            verdict=self._verdict.array(),
            offset=self._offset.array(),
            outcome_offset=self._outcome_offset.array(),
            id_hash=np.concatenate(self._hashes),
            ts=self._ts.array(),
            log_time=self._log_time.array(),
            outcome_ts=self._outcome_ts.array(),
            outcome_log_time=self._outcome_log_time.array(),
            prediction=self._prediction.array(),
            score=self._score.array(),
            classes=classes,
            probabilities=probabilities,
            outcome=self._outcome.array(),
            loss=self._loss.array(),
            outcome_source=self._source.array(),
            latency=self._latency.array(),
            features=b"".join(self._features),
            feature_ends=np.cumsum(self._feature_lengths.array()),
        )


class GroupArrived:
    """Accepted predictions of one group on their way into counts."""

    __slots__ = ("_latency", "_predictions", "_scores", "predictions")

    def __init__(self) -> None:
        self.predictions: list[Prediction] = []
        """Those that are not counted yet; append to it."""
        self._predictions = 0
        self._latency = FloatColumn()
        self._scores = FloatColumn()

    def fold(self) -> None:
        """Count :attr:`predictions`."""
        if not self.predictions:
            return
        self._predictions += len(self.predictions)
        self._latency.add([p.latency for p in self.predictions])
        self._scores.add([None if p.scores.__class__ is dict else p.scores for p in self.predictions])
        self.predictions.clear()

    def take(self, group: str) -> GroupArrivals:
        """Return the counts since the last time."""
        self.fold()
        latency, scores = self._latency.array(), self._scores.array()
        latency = latency[~np.isnan(latency)]
        bins = np.minimum(scores[~np.isnan(scores)] * SCORE_BINS, SCORE_BINS - 1).astype(np.int64)
        counts = np.bincount(bins, minlength=SCORE_BINS).tolist()
        arrivals = GroupArrivals(
            group=group,
            predictions=self._predictions,
            latency=quantiles.count(latency),
            latency_sum=float(latency.sum()),
            scores={index: n for index, n in enumerate(counts) if n},
        )
        self._predictions, self._latency, self._scores = 0, FloatColumn(), FloatColumn()
        return arrivals
