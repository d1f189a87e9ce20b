"""Joined rows of one model as they came, before they are judged: those of many messages are judged at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import Bytes, Floats, Hashes, Ints, Names, ScoredBatch, Values
from streamapp.core.monitoring.rows import join_columns, join_masks, join_names, names_at


@dataclass(slots=True, kw_only=True)
class Unjudged:
    """Joined rows of one message, or of several that follow each other; shape (n,) unless said otherwise."""

    offsets: tuple[int, ...]
    """Of the messages."""
    ends: tuple[int, ...]
    """Where the rows of each end."""
    group: Ints
    """Number of each row's group."""
    ts: Floats
    log_time: Floats
    outcome_ts: Floats
    known: Floats
    """Log time of the outcome."""
    ids: Hashes
    series: Names
    version: Names
    prediction: Values
    outcome: Values
    score: Floats
    loss: Floats
    source: Bytes
    """Of the outcome."""
    classes: tuple[str, ...]
    """Of the probabilities."""
    probabilities: Floats
    """Shape (n, classes)."""
    older: NDArray[np.bool_] | None = None
    """Answered by another version before the one that answers came: counted, but no news of that one. None: all are of
    the one that answers, or name none."""

    def __len__(self) -> int:
        return len(self.ts)


def joined_rows(batch: ScoredBatch, places: Ints | None, group: Ints, offset: int) -> Unjudged:
    """Return joined rows of a message.

    Args:
        batch: All rows of the message.
        places: Indices of the joined ones; None: all.
        group: Number of each row's group.
        offset: Of the message.
    """
    return Unjudged(
        offsets=(offset,),
        ends=(len(batch) if places is None else len(places),),
        group=_at(group, places),
        ts=_at(batch.ts, places),
        log_time=_at(batch.log_time, places),
        outcome_ts=_at(batch.outcome_ts, places),
        known=_at(batch.outcome_log_time, places),
        ids=_at(batch.id_hash, places),
        series=names_at(batch.series, places),
        version=names_at(batch.version, places),
        prediction=_values_at(batch.prediction, places),
        outcome=_values_at(batch.outcome, places),
        score=_at(batch.score, places),
        loss=_at(batch.loss, places),
        source=_at(batch.outcome_source, places),
        classes=batch.classes,
        probabilities=_at(batch.probabilities, places),
    )


def together(parts: Sequence[Unjudged]) -> Unjudged | None:
    """Return rows one after the other; None where each part has labels of its own."""
    first = parts[0]
    if len(parts) == 1:
        return first
    labels = (first.prediction.words, first.outcome.words)
    if any(part.classes or (part.prediction.words, part.outcome.words) != labels for part in parts):
        return None
    ends = list(accumulate(map(len, parts)))
    return Unjudged(
        offsets=tuple(offset for part in parts for offset in part.offsets),
        ends=tuple(ends),
        group=np.concatenate([part.group for part in parts]),
        ts=np.concatenate([part.ts for part in parts]),
        log_time=np.concatenate([part.log_time for part in parts]),
        outcome_ts=np.concatenate([part.outcome_ts for part in parts]),
        known=np.concatenate([part.known for part in parts]),
        ids=np.concatenate([part.ids for part in parts]),
        series=join_names([part.series for part in parts]),
        version=join_names([part.version for part in parts]),
        prediction=_join_values([part.prediction for part in parts]),
        outcome=_join_values([part.outcome for part in parts]),
        score=np.concatenate([part.score for part in parts]),
        loss=join_columns([part.loss for part in parts]),
        source=join_columns([part.source for part in parts]),
        classes=(),
        probabilities=np.empty((ends[-1], 0)),
        older=join_masks([(part.older, len(part)) for part in parts]),
    )


def _join_values(parts: Sequence[Values]) -> Values:
    kind, number = join_columns([part.kind for part in parts]), join_columns([part.number for part in parts])
    return Values(kind=kind, number=number, words=parts[0].words)


def _at(column: NDArray[Any], places: Ints | None) -> Any:
    return column if places is None else column[places]


def _values_at(values: Values, places: Ints | None) -> Values:
    if places is None:
        return values
    return Values(kind=values.kind[places], number=values.number[places], words=values.words)
