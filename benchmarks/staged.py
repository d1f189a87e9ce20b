"""The worker, with a clock around its stages: ``python -m benchmarks.staged`` runs ``python -m agents`` so.

Functions are wrapped from outside, so that what is shipped stays as it is. Each thread's CPU time goes to the innermost
stage that it is in; what an event loop does outside of any wrapped function goes to whatever task or connection it
does it for. At :data:`SIGNAL` the totals so far are written to the file that ``BENCHMARK_STAGES`` names.
"""

import asyncio
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streamapp.stream.apart import PRODUCERS

OUTPUT = "BENCHMARK_STAGES"
SIGNAL = signal.SIGRTMIN
"""Faust has the usual ones for itself."""
STAGES = (
    "fetch",
    "decode",
    "join",
    "encode scored",
    "produce",
    "fetch scored",
    "score",
    "detect",
    "checkpoint",
    "scrape",
    "collect",
    "other",
)
"""In the order in which a pair passes them."""

HOOKS: dict[str, tuple[str, ...]] = {
    "decode": ("streamapp.stream.joining:input_batch",),
    "join": ("streamapp.stream.joining:JoinerTask.digest", "streamapp.core.join:Joiner.advance"),
    "encode scored": (
        "streamapp.stream.joining:JoinerTask.outcome",
        "streamapp.stream.joining:encode_scored",
        "streamapp.stream.joining:split",
    ),
    "score": ("streamapp.stream.monitoring:MonitorTask.digest", "streamapp.core.monitor:Monitor._released"),
    "detect": ("streamapp.core.monitoring.watch:Watch.feed", "streamapp.core.monitoring.findings:show"),
    "checkpoint": (
        "streamapp.core.joining.joinstate:JoinCheckpoint.changes",
        "streamapp.stream.monitoring:MonitorTask.outcome",
        "streamapp.stream.checkpoint:Checkpoint.records",
    ),
    "scrape": (
        "streamapp.web.server:WebServer._application",
        "streamapp.exposition:Exposition.publish",
        "streamapp.stream.view:snapshot",
    ),
}
"""What is wrapped, by stage: module and name. A stage inside another one is counted for itself."""

OWNERS = (
    ("streamapp/stream/view.py", "scrape"),
    ("View.refresh", "scrape"),
    ("App._show", "scrape"),
    ("Runtime", "produce"),
    ("Consumer", "fetch"),
    ("Fetcher", "fetch"),
    ("Agent", "fetch"),
    ("Conductor", "fetch"),
    ("Stream", "fetch"),
    ("joiner", "fetch"),
    ("monitor", "fetch"),
)
"""Whose task it is, by a part of its coroutine's name; the first that fits."""
THREADS = {PRODUCERS: "produce"}
"""Whose loop it is, by the thread's name, beside the main one; any other fetches."""


class Ledger:
    """CPU seconds by stage."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.scored_bytes = 0
        self.entered = 0
        """How often a stage was entered."""
        self._local = threading.local()

    @contextmanager
    def within(self, stage: str) -> Iterator[None]:
        """Count what this thread does meanwhile for a stage, and no longer for the one it was in."""
        outer = getattr(self._local, "stage", None)
        self._enter(stage)
        self.entered += 1
        try:
            yield
        finally:
            self._enter(outer)

    def collected(self, phase: str, _: Any) -> None:
        """Count what the garbage collector does for itself, whose turn ever it takes."""
        if phase == "start":
            self._local.interrupted = getattr(self._local, "stage", None)
            self._enter("collect")
        else:
            self._enter(self._local.interrupted)

    def _enter(self, stage: str | None) -> None:
        """Go on in another stage, or in none."""
        local, now = self._local, time.thread_time()
        if (before := getattr(local, "stage", None)) is not None:
            self.totals[before] += now - local.since
        local.stage, local.since = stage, now

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time is counted for a stage."""

        @functools.wraps(function)
        def counted(*args: Any, **named: Any) -> Any:
            with self.within(stage):
                return function(*args, **named)

        return counted


def hook(ledger: Ledger) -> None:
    """Wrap everything.

    Raises:
        LookupError: something has another name now; the message says what.
    """
    for stage, places in HOOKS.items():
        for place in places:
            owner, name = find(place)
            setattr(owner, name, ledger.wrap(stage, getattr(owner, name)))
    _hook_scored_bytes(ledger)
    _hook_unpack(ledger)
    _hook_loops(ledger)
    gc.callbacks.append(ledger.collected)


def find(place: str) -> tuple[Any, str]:
    """Return what has the place, and its name there.

    Raises:
        LookupError: nothing to be called is there.
    """
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part, None)
    if not callable(getattr(owner, name, None)):
        raise LookupError(f"{place} is not there: HOOKS of benchmarks.staged must say where its work is done now")
    return owner, name


def _hook_scored_bytes(ledger: Ledger) -> None:
    """Count what is written to scored: the fetching thread's time is split by bytes."""
    module, name = find("streamapp.stream.joining:encode_scored")
    original = getattr(module, name)

    def encode_scored(*args: Any) -> bytes:
        message: bytes = original(*args)
        ledger.scored_bytes += len(message)
        return message

    setattr(module, name, encode_scored)


def _hook_unpack(ledger: Ledger) -> None:
    module, name = find("streamapp.stream.transport:unpack")
    original = getattr(module, name)

    def unpack(fetched: Any, limit: int) -> Any:
        stage = "fetch scored" if fetched._topic_partition.topic.endswith("scored") else "fetch"
        with ledger.within(stage):
            return original(fetched, limit)

    setattr(module, name, unpack)


def _hook_loops(ledger: Ledger) -> None:
    """Count every callback of every event loop for whoever it is made."""
    run = asyncio.events.Handle._run
    main = threading.main_thread()

    def counted(handle: Any) -> None:
        thread = threading.current_thread()
        with ledger.within(_owner(handle._callback) if thread is main else THREADS.get(thread.name, "fetch")):
            run(handle)

    setattr(asyncio.events.Handle, "_run", counted)  # noqa: B010 - mypy


def _owner(callback: Any) -> str:
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        coroutine: Any = owner.get_coro()
        name = getattr(coroutine, "__qualname__", "")
        for part, stage in OWNERS:
            if part in name:
                return stage
    return "other"


def _report(ledger: Ledger, path: Path) -> None:
    report = {
        "stages": ledger.totals,
        "cpu_seconds": time.process_time(),
        "scored_bytes": ledger.scored_bytes,
        "entered": ledger.entered,
    }
    part = path.with_suffix(".part")
    part.write_text(json.dumps(report))
    part.rename(path)


def main() -> None:
    """Run the worker."""
    ledger = Ledger()
    hook(ledger)
    path = Path(os.environ[OUTPUT])
    signal.signal(SIGNAL, lambda *_: _report(ledger, path))
    runpy.run_module("agents", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
