"""A contestant: a process pinned to one core, and what it has done and used so far."""

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


@dataclass(frozen=True)
class Sample:
    """A moment in a contestant's life."""

    at: float
    """Monotonic seconds."""
    cpu: float
    """CPU seconds used until then, by all its threads."""
    pairs: float


class Contestant:
    """A process that joins pairs and counts them in ``/metrics``.

    Args:
        module: What ``python -m`` runs.
        arguments: For it.
        environ: Added to the environment.
        counter: Name of the counter whose samples add up to the pairs done.
        announced: Pattern whose first group is the address of its metrics, in what it prints.
        core: CPU it is pinned to.
        log: Where its output goes.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        *,
        counter: str,
        announced: str,
        core: int,
        log: Path,
    ) -> None:
        self._counter = counter
        self._announced = re.compile(announced)
        self._log = log
        self._file = log.open("wb")
        self._process = subprocess.Popen(
            ["taskset", "-c", str(core), sys.executable, "-m", module, *arguments],
            env={**os.environ, **environ},
            stdout=self._file,
            stderr=self._file,
        )
        self._url: str | None = None

    def sample(self) -> Sample:
        """Return where it stands. Pairs are 0 until it answers."""
        if self._process.poll() is not None:
            raise RuntimeError(f"contestant ended: {self._log.read_text(errors='replace')[-2000:]}")
        stat = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        cpu = (int(stat[11]) + int(stat[12])) / TICKS
        return Sample(time.monotonic(), cpu, self._pairs())

    def _pairs(self) -> float:
        if self._url is None:
            found = self._announced.search(self._log.read_text(errors="replace"))
            if found is None:
                return 0.0
            self._url = found[1]
        try:
            with urllib.request.urlopen(self._url, timeout=10) as answer:
                text = answer.read().decode()
        except OSError:
            return 0.0
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(self._counter))

    def memory(self) -> int:
        """Return its peak resident memory in bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) * 1024 if found else 0

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._file.close()
