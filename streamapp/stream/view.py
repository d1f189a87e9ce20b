"""What a worker shows of itself: metrics, summary, readiness and the page."""

import logging
from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

from streamapp.exposition import Exposition, Snapshot
from streamapp.stream.joining import JoinerTask
from streamapp.stream.learning import LearnerTask
from streamapp.stream.monitoring import MonitorTask
from streamapp.stream.runtime import Runtime
from streamapp.web.server import Readiness, WebServer

logger = logging.getLogger(__name__)

KEEPS_UP = 30.0
"""Seconds without progress, with lag, after which a worker is no longer ready."""


class View:
    """Takes immutable pictures of a runtime and serves them on a thread of its own.

    Args:
        runtime: What is shown.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._exposition = Exposition(runtime.around.settings)
        self._summary: Mapping[str, Any] = summary(runtime)
        self._readiness = Readiness(ready=False, reason="the worker is starting")
        self._refreshed = runtime.around.monotonic()
        self._adopted: WeakSet[MonitorTask] = WeakSet()
        self.web: WebServer | None = None

    def start(self) -> None:
        """Begin to serve.

        Raises:
            ConfigError: the port cannot be listened on.
        """
        config = self._runtime.config
        self.web = WebServer(
            config.web_host,
            config.web_port,
            registry=self._exposition.registry,
            summary=lambda: self._summary,
            readiness=self.readiness,
        )
        self.web.start()
        logger.info("status page at %s, metrics at %s/metrics", self.web.url, self.web.url)

    def readiness(self) -> Readiness:
        """Return whether the worker is ready, as of now: a picture that nobody renews says nothing."""
        age = self._runtime.around.monotonic() - self._refreshed
        if self._readiness.ready and age > KEEPS_UP:
            return Readiness(ready=False, reason=f"the worker has not moved for {age:.0f} s")
        return self._readiness

    def waits_for(self, what: str) -> None:
        """Say what keeps the worker from working."""
        self._readiness = Readiness(ready=False, reason=what)

    async def refresh(self) -> None:
        """Take a new picture."""
        runtime = self._runtime
        for task in runtime.tasks.values():
            if isinstance(task, MonitorTask) and task.parked is None and task not in self._adopted:
                self._adopted.add(task)
                self._exposition.adopt(task.restored)
        self._exposition.publish(snapshot(runtime))
        self._summary = summary(runtime)
        self._readiness = readiness(runtime, self._readiness)
        self._refreshed = runtime.around.monotonic()


def readiness(runtime: Runtime, before: Readiness) -> Readiness:
    """Return whether a runtime owns its partitions and keeps up."""
    parked = {str(task): task.parked for task in runtime.tasks.values() if task.parked is not None}
    if parked:
        return Readiness(ready=False, reason="tasks are parked", details=parked)
    if runtime.ending is not None:
        return Readiness(ready=False, reason=runtime.ending)
    if not runtime.ready:
        return before if not before.ready else Readiness(ready=False, reason="partitions to be assigned")
    now = runtime.around.monotonic()
    behind = [
        str(task)
        for task in runtime.tasks.values()
        if now - task.progressed > KEEPS_UP and any(runtime.lag(task).values())
    ]
    if behind:
        return Readiness(ready=False, reason=f"no progress for {KEEPS_UP:g} s", details={"tasks": behind})
    return Readiness(ready=True, details={"tasks": sorted(map(str, runtime.tasks.values()))})


def snapshot(runtime: Runtime) -> Snapshot:
    """Return what Prometheus is to see."""
    counters = runtime.around.counters
    tasks = [task for task in runtime.tasks.values() if task.parked is None]
    parked: dict[tuple[str, int], str] = {
        (t.role, t.partition): t.parked_for for t in runtime.tasks.values() if t.parked is not None
    }
    joiners = [task for task in tasks if isinstance(task, JoinerTask)]
    now = runtime.around.monotonic()
    return Snapshot(
        models=tuple(report for task in tasks if isinstance(task, MonitorTask) for report in task.monitor.report()),
        events=dict(counters.events),
        rejected=dict(counters.rejected),
        signals=dict(counters.signals),
        retrain_requests=dict(counters.retrain),
        model_updates=dict(counters.updates),
        recoveries=dict(runtime.recoveries),
        parked=parked,
        pending={task.partition: task.joiner.pending() for task in joiners},
        log_time={t.partition: t.joiner.log_time for t in joiners if t.joiner.log_time is not None},
        lag={(tp.topic, tp.partition): lag for task in tasks for tp, lag in runtime.lag(task).items()},
        checkpoint_age={(t.role, t.partition): now - t.committed_at for t in tasks if t.committed_at is not None},
        checkpoint_bytes={(task.role, task.partition): task.checkpoint.bytes for task in tasks},
        learner_progress={
            model: at for task in tasks if isinstance(task, LearnerTask) for model, at in task.last_learned.items()
        },
    )


def summary(runtime: Runtime) -> dict[str, Any]:
    """Return the summary of the models whose ``scored`` partition is ours, and of what this process has read."""
    tasks = [task for task in runtime.tasks.values() if task.parked is None]
    models: dict[str, Any] = {}
    updates: dict[str, list[Any]] = {}
    for task in tasks:
        if isinstance(task, LearnerTask):
            updates |= {model: task.updates.of(model) for model in task.updates.models()}
    for task in tasks:
        if isinstance(task, MonitorTask):
            for model, part in task.monitor.summary().items():
                models[model] = {
                    **part,
                    "signals": task.signals.of(model),
                    "decisions": [],
                    "retrain": task.requests.of(model),
                    "reviews": 0,
                    "model_updates": updates.get(model, []),
                }
    return {"models": models, "events": _events(runtime)}


def _events(runtime: Runtime) -> dict[str, dict[str, int]]:
    counts = runtime.around.counters.events
    waiting = sum(
        task.joiner.totals["outcomes"]["waiting"]
        for task in runtime.tasks.values()
        if isinstance(task, JoinerTask) and task.parked is None
    )
    names = {
        "predictions": ("read", "accepted", "rejected", "duplicate"),
        "outcomes": ("read", "accepted", "rejected", "duplicate", "late", "unmatched"),
    }
    events = {topic: {name: counts.get((topic, name), 0) for name in statuses} for topic, statuses in names.items()}
    events["outcomes"]["waiting"] = waiting
    return events
