"""What must become of every prediction, from the two input topics alone.

Plain Python that shares no code with what is tested. It says what the documentation says, record by record.
"""

import heapq
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

FUTURE = 300.0

Raw = tuple[int, float, bytes]
"""Offset, broker's timestamp in seconds, value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Settings that decide about verdicts, in seconds."""

    window: float = 2.0
    grace: float = 1.0
    remember: float = 10.0

    @property
    def longest(self) -> float:
        """How long a prediction made now may wait."""
        return self.window + self.grace


USUAL = Times()


@dataclass
class Expected:
    """What one partition of ``predictions`` and ``outcomes`` comes to, once all that waits has ended."""

    rows: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    """By offset of the prediction, in the order in which they are resolved; see :func:`row`."""
    accepted: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Predictions by (model, group)."""
    dead: Counter[tuple[str, int]] = field(default_factory=Counter)
    """(topic, offset) of what cannot be used."""
    lost: frozenset[int] = frozenset()
    """Of the rows: what retention removed from the topic while it waited; whoever removed it says so."""


@dataclass
class _Prediction:
    offset: int
    log_time: float
    event: dict[str, Any]
    deadline: float
    resolved: bool = False
    refused: bool = False
    outcome: dict[str, Any] | None = None
    outcome_offset: int = -1
    outcome_log_time: float = math.nan
    horizon: float = math.nan


@dataclass
class _Early:
    offset: int
    log_time: float
    event: dict[str, Any]
    further: bool


def row(
    prediction: dict[str, Any],
    log_time: float,
    verdict: str,
    outcome: dict[str, Any] | None,
    outcome_offset: int,
    outcome_log_time: float | None,
) -> tuple[Any, ...]:
    """Return what ``scored`` must hold of one prediction, None for what is not there."""
    outcome = outcome or {}
    return (
        prediction["model"],
        prediction.get("group", "default"),
        prediction.get("version"),
        prediction["ts"],
        log_time,
        prediction.get("prediction"),
        prediction.get("scores"),
        prediction.get("latency"),
        prediction.get("features"),
        verdict,
        outcome_offset,
        outcome_log_time,
        outcome.get("ts"),
        outcome.get("outcome"),
    )


def expected(
    predictions: Iterable[Raw], outcomes: Iterable[Raw], times: Times = USUAL, until: float = math.inf
) -> Expected:
    """Return what must follow from one partition.

    Args:
        predictions: One partition of the topic, by rising offset.
        outcomes: Likewise.
        times: What decides about verdicts.
        until: Log time up to which waiting is seen to its end.
    """
    return _Partition(times).run(predictions, outcomes, until)


class _Partition:
    def __init__(self, times: Times) -> None:
        self.times = times
        self.found = Expected()
        self.known: dict[str, list[_Prediction]] = defaultdict(list)
        self.deadlines: list[tuple[float, int, _Prediction]] = []
        self.early: list[_Early] = []

    def run(self, predictions: Iterable[Raw], outcomes: Iterable[Raw], until: float) -> Expected:
        records = [*_timed(0, predictions), *_timed(1, outcomes)]
        for log_time, topic, offset, value in sorted(records):  # no two have the same topic and offset
            self.pass_time(log_time)
            event = _event(value)
            if event is None or event["ts"] > log_time + FUTURE:
                self.found.dead[("predictions", "outcomes")[topic], offset] += 1
            elif topic == 0:
                self.predict(event, offset, log_time)
            else:
                self.observe(event, offset, log_time)
        self.pass_time(until)
        return self.found

    def pass_time(self, now: float) -> None:
        while self.deadlines and self.deadlines[0][0] < now:
            deadline, _, p = heapq.heappop(self.deadlines)
            if not p.resolved:
                p.horizon = deadline + self.times.remember
                self.resolve(p, "EXPIRED")
        if self.early and self.early[0].log_time + self.times.grace < now:
            self.early = [e for e in self.early if e.log_time + self.times.grace >= now]

    def resolve(self, p: _Prediction, verdict: str) -> None:
        p.resolved = True
        log_time = None if p.outcome is None else p.outcome_log_time
        self.found.rows[p.offset] = row(p.event, p.log_time, verdict, p.outcome, p.outcome_offset, log_time)

    def join(self, p: _Prediction, event: dict[str, Any], offset: int, log_time: float) -> None:
        p.outcome, p.outcome_offset, p.outcome_log_time = event, offset, log_time
        p.horizon = max(p.log_time, log_time) + self.times.remember
        self.resolve(p, "CENSORED" if event.get("status") else "JOINED")

    def predict(self, event: dict[str, Any], offset: int, log_time: float) -> None:
        same = self.known[event["prediction_id"]]
        group = event.get("group", "default")
        for p in same:
            if p.event.get("group", "default") == group and (not p.resolved or p.horizon >= log_time):
                return
        shadows = [p for p in same if p.outcome is not None and p.horizon >= log_time]
        deadline = max(event["ts"], log_time) + self.times.window + self.times.grace
        new = _Prediction(offset, log_time, event, deadline)
        same.append(new)
        heapq.heappush(self.deadlines, (new.deadline, offset, new))
        self.found.accepted[event["model"], group] += 1
        for p in sorted(shadows, key=lambda p: p.outcome_offset):
            assert p.outcome is not None
            if self.problem(new, p.outcome) is None:
                self.join(new, p.outcome, p.outcome_offset, p.outcome_log_time)
                break
        for early in [e for e in self.early if e.event["prediction_id"] == event["prediction_id"]]:
            self.early.remove(early)
            self.observe(early.event, early.offset, early.log_time)

    def observe(self, event: dict[str, Any], offset: int, log_time: float) -> None:
        same = self.known.get(event["prediction_id"], [])
        pending = [p for p in same if not p.resolved]
        fitting = [p for p in pending if self.problem(p, event) is None]
        for p in fitting:
            self.join(p, event, offset, log_time)
        if fitting:
            return
        known = [p for p in same if p.resolved and p.horizon >= log_time]
        if any(p.outcome is not None for p in known):
            return  # a duplicate, or a revision that comes late
        if pending:
            problem = self.problem(pending[0], event)
            if problem == "type_mismatch":
                self.found.dead["outcomes", offset] += 1
            elif not pending[0].refused:
                for p in pending:
                    p.refused = True
                if problem == "before_prediction":
                    self.found.dead["outcomes", offset] += 1
        elif not known:
            further = any(e.event["prediction_id"] == event["prediction_id"] for e in self.early)
            self.early.append(_Early(offset, log_time, event, further))

    def problem(self, p: _Prediction, outcome: dict[str, Any]) -> str | None:
        if outcome["ts"] < p.event["ts"] - self.times.grace:
            return "before_prediction"
        if outcome["ts"] > p.event["ts"] + self.times.window:
            return "late"
        kinds = {type(value) for value in (p.event.get("prediction"), outcome.get("outcome")) if value is not None}
        return "type_mismatch" if len(kinds) > 1 else None


def _timed(topic: int, log: Iterable[Raw]) -> Sequence[tuple[float, int, int, bytes]]:
    now = 0.0
    timed: list[tuple[float, int, int, bytes]] = []
    for offset, timestamp, value in log:
        now = max(now, timestamp)
        timed.append((now, topic, offset, value))
    return timed


def _event(value: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(value)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "ts" in event else None
