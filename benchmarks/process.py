"""A contestant: processes pinned to one core, and what they have done and used so far."""

import math
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
STOP_GRACE = 15.0


def cores() -> tuple[int, list[int]]:
    """Return the contestants' core, and those of the broker and the harness: the same one where there is no other."""
    allowed = sorted(ALLOWED)
    return allowed[0], allowed[1:] or allowed


ALLOWED = frozenset(os.sched_getaffinity(0))
"""What this process may use, before it is pinned itself."""


@dataclass(frozen=True)
class Sample:
    """A moment in a contestant's life."""

    at: float
    """Monotonic seconds."""
    cpu_before: float
    """CPU seconds used until then, by all its threads."""
    cpu_after: float
    """The same when it had told its pairs, which costs some."""
    pairs: float


class Process:
    """One process that counts joined pairs in ``/metrics``.

    Args:
        arguments: Of the Python interpreter.
        environ: Added to the environment.
        counter: Beginning of the series whose samples add up to the pairs done.
        core: CPU it is pinned to.
        log: Where its output goes.
    """

    _ANNOUNCED = re.compile(r"metrics at (http://\S+)/metrics")

    def __init__(
        self, arguments: Sequence[str], environ: Mapping[str, str], *, counter: str, core: int, log: Path
    ) -> None:
        self._counter = counter
        self._log = log
        self._file = log.open("wb")
        self._process = subprocess.Popen(
            ["taskset", "-c", str(core), sys.executable, *arguments],
            env={**os.environ, **environ, "PYTHONUNBUFFERED": "1"},
            stdout=self._file,
            stderr=self._file,
        )
        self._url: str | None = None

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    def cpu(self) -> float:
        """Return the CPU seconds it has used, system time included.

        Raises:
            RuntimeError: It has ended; the message has the end of its log.
        """
        if self._process.poll() is not None:
            raise RuntimeError(f"{self._log.stem} ended: {self.tail()}")
        stat = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(stat[11]) + int(stat[12])) / TICKS

    def get(self, path: str) -> bytes | None:
        """Return one of its pages, None while it does not answer."""
        if self._url is None:
            found = self._ANNOUNCED.search(self._log.read_text(errors="replace"))
            if found is None:
                return None
            self._url = found[1]
        try:
            with urllib.request.urlopen(self._url + path, timeout=30) as answer:
                body: bytes = answer.read()
                return body
        except OSError:
            return None

    def pairs(self) -> float:
        """Return the pairs done, 0 until it answers."""
        return self.sum(self._counter)

    def sum(self, series: str) -> float:
        """Return the sum of the series whose lines in ``/metrics`` begin so, 0 until it answers."""
        text = (self.get("/metrics") or b"").decode()
        return math.fsum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(series))

    def peak_memory(self) -> int:
        """Return its largest resident memory so far in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) * 1024 if found else 0

    def memory(self) -> int:
        """Return its resident memory in bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def tail(self) -> str:
        """Return the end of its log."""
        return self._log.read_text(errors="replace")[-2000:]

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def close(self) -> None:
        """End it: in order, and by force where it takes too long."""
        self._process.terminate()
        try:
            self._process.wait(STOP_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._file.close()


class Contestant:
    """The processes that share one input."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self.processes = tuple(processes)

    def cpu(self) -> float:
        """Return the CPU seconds they have used."""
        return sum(process.cpu() for process in self.processes)

    def answers(self) -> bool:
        """Return whether all of them have got as far as to show how many pairs they have done."""
        return all(process.get("/metrics") is not None for process in self.processes)

    def sample(self) -> Sample:
        """Return where it stands."""
        at, before = time.monotonic(), self.cpu()
        pairs = sum(process.pairs() for process in self.processes)
        return Sample(at, before, self.cpu(), pairs)

    def tail(self) -> str:
        """Return the ends of their logs."""
        return "\n".join(process.tail() for process in self.processes)

    def peak_memory(self) -> int:
        """Return the largest resident memory so far in bytes, of all its processes together."""
        return sum(process.peak_memory() for process in self.processes)

    def close(self) -> None:
        """End all."""
        for process in self.processes:
            process.close()
