"""What a worker shows of itself: metrics, summary, readiness and the page."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from math import inf
from typing import Any
from weakref import WeakSet

from streamapp.core.joining.tally import OVERFLOWN
from streamapp.core.report import ModelReport
from streamapp.exposition import Exposition, Snapshot
from streamapp.stream.breathing import breathing
from streamapp.stream.joining import JoinerTask
from streamapp.stream.learning import LearnerTask
from streamapp.stream.monitoring import MonitorTask
from streamapp.stream.runtime import Runtime
from streamapp.web.server import Readiness, WebServer

logger = logging.getLogger(__name__)

KEEPS_UP = 30.0
"""Seconds without progress, with lag, after which a worker is no longer ready."""
WITHIN = 5.0
"""Seconds that a reader waits for something new; Prometheus, left alone, gives up after 10."""
SUMMARY_HOLDS = 0.25
"""Seconds within which readers are given the same one."""
PICTURE_HOLDS = 0.1
"""Seconds within which scrapes are given the same one."""
REST = 0.003
"""Seconds that the stream has for itself between two parts of a picture or of a summary."""


class View:
    """Takes immutable pictures of a runtime and serves them on a thread of its own.

    Args:
        runtime: What is shown.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._exposition = Exposition(runtime.around.settings, renew=self._renew)
        self._taking = asyncio.Lock()
        self._taken = -inf
        self._summary: Mapping[str, Any] = summary(runtime, ())
        self._summarising = asyncio.Lock()
        self._summarised = -inf
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readiness = Readiness(ready=False, reason="the worker is starting")
        self._refreshed = runtime.around.monotonic()
        self._adopted: WeakSet[MonitorTask] = WeakSet()
        self.web: WebServer | None = None

    def start(self) -> None:
        """Begin to serve.

        Raises:
            ConfigError: the port cannot be listened on.
        """
        with contextlib.suppress(RuntimeError):  # none runs: there is nothing to summarise either
            self._loop = asyncio.get_running_loop()
        config = self._runtime.config
        self.web = WebServer(
            config.web_host,
            config.web_port,
            registry=self._exposition.registry,
            summary=self.summary,
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

    def summary(self) -> Mapping[str, Any]:
        """Return the summary as of now; as of before, while the loop is too busy to make one.

        Called on the web server's threads. Made only when somebody asks, since it costs more than all else here.
        """
        self._have(self._summarise)
        return self._summary

    def _renew(self) -> None:
        """Have a new picture taken for a scrape: nobody looks at those that are taken in between."""
        self._have(self._picture)

    def _have(self, done: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have something done on the loop, and wait for it, but not for long; called on the web server's threads."""
        if self._loop is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError, TimeoutError, CancelledError):
                asyncio.run_coroutine_threadsafe(done(), self._loop).result(WITHIN)

    async def _picture(self) -> None:
        async with self._taking:
            if self._runtime.around.monotonic() - self._taken >= PICTURE_HOLDS:
                await self._take()

    async def _summarise(self) -> None:
        async with self._summarising:
            if self._runtime.around.monotonic() - self._summarised >= SUMMARY_HOLDS:
                models = [part async for part in breathing(model_summaries(self._runtime), rest=REST)]
                self._summary = summary(self._runtime, models)
                self._summarised = self._runtime.around.monotonic()

    def waits_for(self, what: str) -> None:
        """Say what keeps the worker from working."""
        self._readiness = Readiness(ready=False, reason=what)

    async def look(self) -> None:
        """See whether the worker is ready."""
        self._readiness = readiness(self._runtime, self._readiness)
        self._refreshed = self._runtime.around.monotonic()

    async def refresh(self) -> None:
        """Take a new picture, and see whether the worker is ready."""
        async with self._taking:
            await self._take()
        await self.look()

    async def _take(self) -> None:
        runtime = self._runtime
        for task in runtime.tasks.values():
            if isinstance(task, MonitorTask) and task.parked is None and task not in self._adopted:
                self._adopted.add(task)
                self._exposition.adopt(task.restored)
        reports = [report async for report in breathing(model_reports(runtime), rest=REST)]
        self._exposition.publish(snapshot(runtime, tuple(reports)))
        for task in runtime.tasks.values():
            if isinstance(task, MonitorTask) and task.forgotten:
                forgotten, task.forgotten = task.forgotten, []
                self._exposition.forget(forgotten)
        self._taken = runtime.around.monotonic()


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
    if runtime.tasks and runtime.silence() > KEEPS_UP:
        return Readiness(ready=False, reason=f"the broker has not answered for {KEEPS_UP:g} s")
    return Readiness(ready=True, details={"tasks": sorted(map(str, runtime.tasks.values()))})


def model_reports(runtime: Runtime) -> Iterator[ModelReport]:
    """Yield how the models stand whose ``scored`` partition is ours."""
    for task in list(runtime.tasks.values()):
        if isinstance(task, MonitorTask) and task.parked is None:
            yield from task.monitor.reports()


def snapshot(runtime: Runtime, models: tuple[ModelReport, ...]) -> Snapshot:
    """Return what Prometheus is to see."""
    counters = runtime.around.counters
    tasks = [task for task in runtime.tasks.values() if task.parked is None]
    parked: dict[tuple[str, int], str] = {
        (t.role, t.partition): t.parked_for for t in runtime.tasks.values() if t.parked is not None
    }
    joiners = [task for task in tasks if isinstance(task, JoinerTask)]
    now = runtime.around.monotonic()
    return Snapshot(
        models=models,
        events=dict(counters.events),
        rejected=dict(counters.rejected),
        signals=dict(counters.signals),
        retrain_requests=dict(counters.retrain),
        model_updates=dict(counters.updates),
        recoveries=dict(Counter(runtime.recoveries) + Counter(counters.recoveries)),
        overflow=dict(counters.overflow),
        reread=dict(counters.reread),
        restore_seconds={(task.role, task.partition): task.recovery.seconds for task in tasks},
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


def model_summaries(runtime: Runtime) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the summaries of the models whose ``scored`` partition is ours, with what happened to them."""
    tasks = [task for task in runtime.tasks.values() if task.parked is None]
    learners = [task for task in tasks if isinstance(task, LearnerTask)]
    for task in tasks:
        if isinstance(task, MonitorTask):
            for model, part in task.monitor.summaries():
                yield (
                    model,
                    {
                        **part,
                        "signals": task.signals.of(model),
                        "decisions": [],
                        "retrain": task.requests.of(model),
                        "reviews": 0,
                        "model_updates": [update for learner in learners for update in learner.updates.of(model)],
                    },
                )


def summary(runtime: Runtime, models: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return the summary of models, and of what this process has read."""
    return {"models": dict(models), "events": _events(runtime)}


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
    events["predictions"] |= {mark: n for mark in OVERFLOWN if (n := counts.get(("predictions", mark), 0))}
    return events
