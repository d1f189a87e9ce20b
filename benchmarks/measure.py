"""One run: from when a contestant begins to work to the last pair, and whether it found what there was to find.

A contestant that works in stages has done much before it counts its first pair. So what it does counts from the moment
at which it was last idle, with everything loaded and connected: a warm-up by pairs would give it that work for nothing.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.process import TICKS, Contestant, Sample
from benchmarks.recording import Key, Recording, Score

POLL = 0.2
"""Seconds between two looks."""
LOOKING = 0.02
"""Largest share of the time that is spent on looking: a scrape of many series costs the contestant, too."""
SCRAPE = 15.0
"""Seconds between two looks at a contestant that is at work: so often a Prometheus would scrape it."""
IDLE = 0.3
"""Share of a core below which a contestant is taken to be done, or to wait for the broker."""
IDLE_WINDOW = 0.5
"""Seconds over which that is looked at."""
STANDSTILL = 60.0
"""Seconds without a further pair after which a run has failed."""
SETTLE = 20.0
"""Seconds within which the last figures must be shown, once the last pair was counted."""
TOLERANCE = 1e-9
AREA = 0.002
"""By which an AUC of few bins may differ from the exact one, and one pair of rows more where there are few."""
CHANCE = 3.0
"""Six standard deviations of a share of one row."""


class Refused(Exception):
    """A contestant did not do the job."""


@dataclass(frozen=True)
class Run:
    """What happened once it had begun."""

    pairs: float
    seconds: float
    cpu_seconds: float
    memory: int
    """Peak of the resident memory in bytes, whole run."""
    recorded: int
    """Pairs in the input."""
    warm: bool
    """False: it was never seen before its first pair, so all is in, the start of the process too."""

    @property
    def per_second(self) -> float:
        """Pairs per second of wall time."""
        return self.pairs / max(self.seconds, 1e-3)

    @property
    def per_cpu_second(self) -> float:
        """Pairs per second of CPU time."""
        return self.pairs / max(self.cpu_seconds, 1 / TICKS)


def measure(
    contestant: Contestant,
    recording: Recording,
    results: Callable[[Contestant], dict[Key, Score]],
    *,
    at_warm: Callable[[], None] = lambda: None,
    at_end: Callable[[], None] = lambda: None,
) -> Run:
    """Watch a contestant through a recording.

    Counts change at the contestant's own pace: samples count from the moment at which a change is first seen.

    Args:
        contestant: Just started; it is the caller's to end.
        recording: What it reads.
        results: How it says what it found.
        at_warm: Called when measuring may begin; what counts is the last time.
        at_end: Called when the last pair is counted.

    Raises:
        Refused: It counted other pairs, or found another accuracy, Brier loss, AUC or share of misses of persistence,
            than the recording has; or it stands still.
        RuntimeError: It ended.
    """
    pairs = recording.shape.pairs
    start = first = last = before = Sample(time.monotonic(), 0.0, 0.0, 0.0)
    loaded = False  # it has been idle: what it does from then on is its work
    watch = _Watch(contestant)
    while last.pairs < pairs:
        sample = contestant.sample()
        took = time.monotonic() - sample.at
        idle = sample.cpu_before - before.cpu_after < IDLE * (sample.at - before.at)
        if not sample.pairs and contestant.answers() and (first is start or idle):
            first = sample
            loaded |= idle
            at_warm()
        before = sample
        if sample.pairs > last.pairs:
            last = sample
        if sample.at - last.at > STANDSTILL + 2 * took:
            done = f"{last.pairs:.0f} of {pairs}"
            raise Refused(f"no further pair for {STANDSTILL:g} s after {done}: {contestant.tail()}")
        if last.pairs < pairs:
            watch.wait(SCRAPE if loaded and not idle else max(POLL, took / LOOKING), took)
    at_end()
    run = Run(
        pairs=last.pairs - first.pairs,
        seconds=last.at - first.at,
        cpu_seconds=last.cpu_before - first.cpu_after,
        memory=contestant.peak_memory(),
        recorded=pairs,
        warm=first is not start,
    )
    verify(recording.truth, lambda: results(contestant))
    return run


class _Watch:
    """Waits for the next look at a contestant: no longer than it is at work."""

    def __init__(self, contestant: Contestant) -> None:
        self._contestant = contestant

    def wait(self, longest: float, took: float) -> None:
        """Return after *longest* seconds, or when next to nothing was done for a while.

        Args:
            longest: Seconds.
            took: What the last look took: the next is that much later at least.
        """
        end = time.monotonic() + longest
        least = time.monotonic() + took
        while (left := end - time.monotonic()) > 0:
            cpu = self._contestant.cpu()
            time.sleep(min(left, IDLE_WINDOW))
            idle = self._contestant.cpu() - cpu < IDLE * IDLE_WINDOW
            if left >= IDLE_WINDOW and idle and time.monotonic() > least:
                return


def verify(truth: dict[Key, Score], results: Callable[[], dict[Key, Score]], *, within: float = SETTLE) -> None:
    """Return once the results are the truth.

    Raises:
        Refused: They are not, within so many seconds.
    """
    deadline = time.monotonic() + within
    while wrong := _differences(truth, results()):
        if time.monotonic() > deadline:
            raise Refused("not the same job: " + "; ".join(wrong[:5]) + (" ..." if len(wrong) > 5 else ""))
        time.sleep(POLL)


def _differences(truth: dict[Key, Score], found: dict[Key, Score]) -> list[str]:
    wrong = []
    for key in truth.keys() | found.keys():
        expected, got = truth.get(key), found.get(key)
        if expected is None or got is None or not _same(expected, got):
            wrong.append(f"{'/'.join(key)}: expected {expected}, got {got}")
    return sorted(wrong)


def _same(a: Score, b: Score) -> bool:
    return (
        a.pairs == b.pairs
        and abs(a.accuracy - b.accuracy) <= TOLERANCE
        and abs(a.brier - b.brier) <= TOLERANCE
        and abs(a.auc - b.auc) <= AREA + 1 / a.pairs
        and abs(a.persistence - b.persistence) <= CHANCE / math.sqrt(a.pairs)
    )
