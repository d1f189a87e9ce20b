"""How fast the workers' core computes just now: machines that are shared with others change by a factor within minutes.

A share of the capacity is a share of what the machine can do at that moment. So the same few milliseconds of work are
done now and then on the workers' core, and timed by the CPU time that they take: not by the clock, which tells how busy
the workers are.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable
from statistics import median

EVERY = 1.0
"""Seconds between two probes."""
KEPT = 15
"""Probes whose median is the speed of the moment: the load is not to follow each hiccup."""
ROUNDS = 100_000
"""Of the work: 5 to 15 ms, of which the workers lose as much."""


def work() -> float:
    """Do the work, and return the CPU seconds that it took this thread."""
    began, total = time.thread_time(), 0
    for number in range(ROUNDS):
        total += number
    return time.thread_time() - began


class Speed(threading.Thread):
    """Probes in the background.

    Args:
        cores: On which; it is only this thread that goes there.
        probe: What does the work, and returns the seconds that it took.
    """

    def __init__(self, cores: Iterable[int] = (), probe: Callable[[], float] = work) -> None:
        super().__init__(daemon=True)
        self._cores = set(cores)
        self._probe = probe
        self._seconds: list[float] = []
        self._usual: float | None = None
        self._ending = threading.Event()

    def run(self) -> None:
        if self._cores:
            os.sched_setaffinity(threading.get_native_id(), self._cores)
        while not self._ending.wait(EVERY):
            self.look()

    def look(self) -> None:
        """Probe once."""
        self._seconds.append(self._probe())

    @property
    def probes(self) -> int:
        """How many there were so far."""
        return len(self._seconds)

    def mark(self, first: int) -> None:
        """Take the speed of all probes since the *first* for the usual one."""
        self._usual = median(self._seconds[first:]) if self.probes > first else None

    def factor(self) -> float:
        """Return the speed of the newest probes, in times of the usual one; 1 where there is none."""
        return self._usual / median(self._seconds[-KEPT:]) if self._usual else 1.0

    def close(self) -> None:
        """End it."""
        self._ending.set()
        if self.is_alive():
            self.join()
