"""Builds scored batches from plain rows, and cuts batches into smaller ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from streamapp.core.events import SOURCES, Kind, Names, ScoredBatch, Values, Verdict

NAN = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One resolved prediction, as Python has it."""

    prediction: bool | str | float | None = None
    scores: float | Mapping[str, float] | None = None
    outcome: bool | str | float | None = None
    loss: float | None = None
    group: str = "default"
    version: str | None = None
    series: str | None = None
    unit: str | None = None
    verdict: Verdict = Verdict.JOINED
    offset: int = 0
    outcome_offset: int = 0
    id_hash: int | None = None
    ts: float = 0.0
    log_time: float | None = None
    outcome_ts: float | None = None
    outcome_log_time: float | None = None
    source: str = "observed"
    latency: float | None = None


def values(labels: Sequence[bool | str | float | None]) -> Values:
    words: dict[str, int] = {}
    kind, number = [], []
    for label in labels:
        if label is None:
            kind.append(Kind.NONE)
            number.append(NAN)
        elif isinstance(label, str):
            kind.append(Kind.STRING)
            number.append(float(words.setdefault(label, len(words))))
        else:
            kind.append(Kind.BOOL if isinstance(label, bool) else Kind.NUMBER)
            number.append(float(label))
    return Values(kind=np.array(kind, np.uint8), number=np.array(number, float), words=tuple(words))


def names(strings: Sequence[str | None]) -> Names:
    words: dict[str, int] = {}
    codes = [-1 if s is None else words.setdefault(s, len(words)) for s in strings]
    return Names(code=np.array(codes, np.int32), words=tuple(words))


def batch(rows: Sequence[Row], *, model: str = "fraud", partition: int = 0) -> ScoredBatch:
    def column(name: str, missing: float = NAN) -> np.ndarray:
        return np.array([missing if getattr(row, name) is None else getattr(row, name) for row in rows], float)

    n = len(rows)
    ts = column("ts")
    log_time = np.where(np.isnan(column("log_time")), ts, column("log_time"))
    done = np.array([row.verdict == Verdict.JOINED for row in rows], bool)
    outcome_ts = np.where(np.isnan(column("outcome_ts")) & done, ts + 1.0, column("outcome_ts"))
    outcome_log = np.where(np.isnan(column("outcome_log_time")) & done, log_time + 1.0, column("outcome_log_time"))
    tables = [row.scores if isinstance(row.scores, Mapping) else {} for row in rows]
    classes = tuple(dict.fromkeys(name for table in tables for name in table))
    probabilities = np.full((n, len(classes)), NAN)
    for i, table in enumerate(tables):
        if table:
            probabilities[i] = [table.get(name, 0.0) for name in classes]
    return ScoredBatch(
        model=model,
        partition=partition,
        group=names([row.group for row in rows]),
        version=names([row.version for row in rows]),
        series=names([row.series for row in rows]),
        unit=names([row.unit for row in rows]),
        verdict=np.array([row.verdict for row in rows], np.uint8),
        offset=np.array([row.offset for row in rows], np.int64),
        outcome_offset=np.array([row.outcome_offset for row in rows], np.int64),
        id_hash=np.array([i + 1 if row.id_hash is None else row.id_hash for i, row in enumerate(rows)], np.uint64),
        ts=ts,
        log_time=log_time,
        outcome_ts=outcome_ts,
        outcome_log_time=outcome_log,
        prediction=values([row.prediction for row in rows]),
        score=np.array([NAN if r.scores is None or isinstance(r.scores, Mapping) else r.scores for r in rows], float),
        classes=classes,
        probabilities=probabilities,
        outcome=values([row.outcome for row in rows]),
        loss=column("loss"),
        outcome_source=np.array([SOURCES.index(row.source) for row in rows], np.uint8),
        latency=column("latency"),
        features=b"",
        feature_ends=np.zeros(n, np.int64),
    )


def part(whole: ScoredBatch, start: int, end: int) -> ScoredBatch:
    """Return rows start to end, end not included."""
    changes: dict[str, Any] = {}
    for field in fields(whole):
        value = getattr(whole, field.name)
        if isinstance(value, np.ndarray):
            changes[field.name] = value[start:end]
        elif isinstance(value, Names):
            changes[field.name] = Names(code=value.code[start:end], words=value.words)
        elif isinstance(value, Values):
            changes[field.name] = replace(value, kind=value.kind[start:end], number=value.number[start:end])
    return replace(whole, **changes)
