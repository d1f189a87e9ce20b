"""Joiner, monitor and learner in one process, one partition each, with no broker: how replay runs the core."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from streamapp.core.events import (
    ModelUpdate,
    Position,
    RetrainRequest,
    Scored,
    ScoredBatch,
    Signal,
    Tick,
    UpdateMetrics,
)
from streamapp.core.join import InputBatch, Joiner
from streamapp.core.joining.tally import OVERFLOWN
from streamapp.core.learner import Learner, seed_of
from streamapp.core.monitor import Monitor
from streamapp.core.settings import Settings
from streamapp.exposition import Snapshot

KEPT_ROWS = 500_000
"""Scored rows kept for a learner to go back to; a request that reaches further back learns from what is kept."""
CLOCK_STEP = 1.0
"""Seconds of log time between two ticks."""

_Group = tuple[str, str]


@dataclass(slots=True)
class _Learning:
    """A request being worked on."""

    request: RetrainRequest
    learner: Learner
    version: str
    parent: str | None


@dataclass(frozen=True, slots=True)
class _Learned:
    version: str
    count: int
    model: bytes


_STATUSES = {
    "predictions": ("read", "accepted", "rejected", "duplicate"),
    "outcomes": ("read", "accepted", "rejected", "duplicate", "late", "unmatched", "waiting"),
}


class Pipeline:
    """The whole core on one partition.

    Give it predictions and outcomes, then say how far time has come; it keeps what followed. What it does depends on
    nothing but its input: there is no clock in it.

    Args:
        settings: How models are watched.
    """

    def __init__(self, settings: Settings) -> None:
        self.joiner = Joiner(0, settings)
        self.monitor = Monitor(0, settings)
        self.signals: list[Signal] = []
        """Every signal so far, oldest first; likewise the next two."""
        self.requests: list[RetrainRequest] = []
        self.updates: list[ModelUpdate] = []
        self.models: dict[str, bytes] = {}
        """Accepted models by the id of their update, as :mod:`streamapp.core.pickling` wrote them."""
        self.rejected: dict[tuple[str, str], int] = {}
        """Events that could not be used, by (topic, reason)."""
        self._settings = settings
        self._offset = 0
        self._ticked = float("-inf")
        self._kept: deque[tuple[int, ScoredBatch]] = deque()
        self._kept_rows = 0
        self._learning: list[_Learning] = []
        self._learned: dict[_Group, _Learned] = {}

    def predictions(self, batch: InputBatch) -> None:
        """Take predictions, in log order."""
        self.joiner.predictions(batch)

    def outcomes(self, batch: InputBatch) -> None:
        """Take outcomes, in log order."""
        self.joiner.outcomes(batch)

    def advance(self, now: float) -> Sequence[Signal | RetrainRequest | ModelUpdate]:
        """Let log time come to *now*: everything up to it has been given. Return what followed, oldest first."""
        self.joiner.advance(predictions=now, outcomes=now)
        output = self.joiner.take()
        for key, count in output.rejected.items():
            self.rejected[key] = self.rejected.get(key, 0) + count
        followed: list[Signal | RetrainRequest | ModelUpdate] = []
        messages: list[Scored] = [*output.arrivals, *output.rows]
        if now >= self._ticked + CLOCK_STEP:
            self._ticked = now
            messages.append(Tick(partition=0, log_time=now))
        for message in messages:
            followed.extend(self._score(message, now))
        return followed

    def summary(self) -> dict[str, Any]:
        """Return the summary of everything so far, as ``docs/cli.md`` describes it."""
        models: dict[str, Any] = {}
        for name, part in self.monitor.summary().items():
            models[name] = {
                **part,
                "signals": [signal for signal in self.signals if signal.model == name],
                "decisions": [],
                "retrain": [request for request in self.requests if request.model == name],
                "reviews": 0,
                "model_updates": [update for update in self.updates if update.model == name],
            }
        totals = self.joiner.totals
        events = {topic: {status: totals[topic][status] for status in names} for topic, names in _STATUSES.items()}
        events["predictions"] |= {mark: count for mark in OVERFLOWN if (count := totals["predictions"][mark])}
        return {"models": models, "events": events}

    def snapshot(self) -> Snapshot:
        """Return what Prometheus would see of it."""
        return Snapshot(
            models=self.monitor.report(),
            events={
                (topic, status): count
                for topic, counts in self.joiner.totals.items()
                for status, count in counts.items()
                if status not in ("read", "waiting")
            },
            rejected=dict(self.rejected),
            signals=Counter((s.model, s.group, s.kind, s.severity, s.detector) for s in self.signals),
            retrain_requests=Counter((r.model, r.group, r.reason) for r in self.requests),
            model_updates=Counter((u.model, u.group, u.status) for u in self.updates),
            pending={0: self.joiner.pending()},
            log_time={} if (at := self.joiner.log_time) is None else {0: at},
        )

    def _score(self, message: Scored, now: float) -> Iterator[Signal | RetrainRequest | ModelUpdate]:
        offset, self._offset = self._offset, self._offset + 1
        position = Position(0, offset, now)
        if isinstance(message, ScoredBatch):
            self._keep(offset, message)
        requests = []
        for event in self.monitor.apply(message, position):
            if isinstance(event, Signal):
                self.signals.append(event)
            else:
                self.requests.append(event)
                requests.append(event)
            yield event
        for learning in self._learning:
            if isinstance(message, ScoredBatch) and message.model == learning.request.model:
                learning.learner.feed(message, offset)
            learning.learner.advance(now)
        self._learning.extend(self._begin(request) for request in requests)
        yield from self._finish(now)

    def _keep(self, offset: int, batch: ScoredBatch) -> None:
        self._kept.append((offset, batch))
        self._kept_rows += len(batch)
        while self._kept_rows - len(self._kept[0][1]) > KEPT_ROWS:
            self._kept_rows -= len(self._kept.popleft()[1])

    def _begin(self, request: RetrainRequest) -> _Learning:
        parent = self._learned.get((request.model, request.group))
        version = f"learned-{parent.count + 1 if parent else 1}"
        settings = self._settings.of(request.model)
        task = request.task or settings.task
        assert task is not None  # the monitor knows it, or there would be no loss that could drift
        learner = Learner(
            request,
            settings,
            task,
            parent=parent.model if parent else None,
            parent_version=parent.version if parent else None,
            version=version,
            seed=seed_of(request),
        )
        for offset, batch in self._kept:
            if offset >= request.scored.from_ and batch.model == request.model:
                learner.feed(batch, offset)
        return _Learning(request, learner, version, parent.version if parent else None)

    def _finish(self, now: float) -> Iterator[ModelUpdate]:
        done = [learning for learning in self._learning if learning.learner.done]
        self._learning = [learning for learning in self._learning if not learning.learner.done]
        for learning in done:
            request, result = learning.request, learning.learner.result()
            update = ModelUpdate(
                id=f"{request.id}-update",
                model=request.model,
                group=request.group,
                version=learning.version,
                parent=learning.parent,
                request=request.id,
                status=result.status,
                at=now,
                rows_learned=result.rows_learned,
                metrics=UpdateMetrics(incumbent=result.incumbent, candidate=result.candidate),
                artifact=None,
            )
            if result.model is not None:
                key = (request.model, request.group)
                count = self._learned[key].count + 1 if key in self._learned else 1
                self._learned[key] = _Learned(learning.version, count, result.model)
                self.models[update.id] = result.model
            self.updates.append(update)
            yield update
