"""Workers of a soak, supervised as they are shipped, and what the kernel says of them."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.faults.process import Process

PAGE = os.sysconf("SC_PAGE_SIZE")
STOP_WITHIN = 30.0
SCRAPE_EVERY = 5.0
"""Seconds: three times as often as Prometheus does, left alone."""
SHOWN = ("streamapp_pending_predictions", "streamapp_checkpoint_bytes", "streamapp_parked", "streamapp_rejected_total")


class Member:
    """One place for a worker: when it is restarted, another process takes it.

    Args:
        number: Of the place.
        environ: Variables of the worker, beside our own.
        folder: For logs.
        cores: That it may run on.
    """

    def __init__(self, number: int, environ: Mapping[str, str], folder: Path, cores: Iterable[int]) -> None:
        self.number = number
        self._environ = environ
        self._folder = folder
        self._cores = set(cores)
        self._lives = 0
        self._scraped: dict[int, dict[str, float]] = {}
        self._closing = threading.Event()
        self._process = self._start()
        self._scraper = threading.Thread(target=self._scrape, daemon=True)
        self._scraper.start()

    def _start(self) -> Process:
        self._lives += 1
        log = self._folder / f"worker-{self.number}-{self._lives}.log"
        process = Process(f"worker {self.number}", self._environ, log, supervised=True)
        os.sched_setaffinity(process._process.pid, self._cores)  # before there is anything that would not inherit it
        return process

    @property
    def pid(self) -> int | None:
        """Of the process that does the work; None between two."""
        try:
            return self._process.pid
        except (ValueError, OSError):
            return None

    def ready(self) -> bool:
        """Whether it owns its partitions and keeps up."""
        return self._process.ready()

    def kill(self) -> None:
        """SIGKILL to the worker; its supervisor starts another."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGKILL)

    def restart(self) -> int:
        """SIGTERM to the supervisor, as an operator does, and start anew; return the exit code."""
        code = self._process.stop(STOP_WITHIN)
        self._process.close()
        self._process = self._start()
        return code

    def said(self) -> str:
        """Return all that its processes logged."""
        logs = sorted(self._folder.glob(f"worker-{self.number}-*.log"))
        return "".join(log.read_text(errors="replace") for log in logs)

    def endings(self) -> tuple[list[str], int]:
        """Return the lines in which its processes say that they end for what is a bug, and how many ended for a reason.

        Fenced, or with an aborted commit, a worker ends as it should: where the machine is too busy for its session.
        """
        lines = [line for line in self.said().splitlines() if "ending (" in line]
        reasons = [line for line in lines if "(fenced)" in line or "(aborted)" in line or "cannot take over" in line]
        return [line for line in lines if line not in reasons], len(reasons)

    def sample(self) -> dict[str, Any] | None:
        """Return what the process uses now, and what it said when it was last asked; None where there is none."""
        pid = self.pid
        if pid is None:
            return None
        try:
            folder = Path(f"/proc/{pid}")
            found: dict[str, Any] = {
                "worker": self.number,
                "pid": pid,
                "rss": int((folder / "statm").read_text().split()[1]) * PAGE,
                "fds": len(os.listdir(folder / "fd")),
                "threads": len(os.listdir(folder / "task")),
            }
        except OSError:
            return None
        if not found["rss"]:  # it has ended, and nobody has taken note
            return None
        return {**found, **self._scraped.get(pid, {})}

    def _scrape(self) -> None:
        """Ask for its metrics now and then, as Prometheus does, whether or not it is slow to answer."""
        while not self._closing.wait(SCRAPE_EVERY):
            pid, began = self.pid, time.monotonic()
            status, page = self._process.get("/metrics")
            if status != 200 or pid is None or pid != self.pid:
                continue
            sums = dict.fromkeys(SHOWN, 0.0)
            for line in page.decode().splitlines():
                name = line.partition("{")[0]
                if name in sums:
                    sums[name] += float(line.rsplit(" ", 1)[1])
            said = {name.removeprefix("streamapp_"): value for name, value in sums.items()}
            self._scraped = {pid: {"scrape": round(time.monotonic() - began, 3), **said}}

    def close(self) -> None:
        """End it, by force where it takes too long."""
        self._closing.set()
        self._scraper.join(STOP_WITHIN)
        with contextlib.suppress(Exception):
            self._process.stop(STOP_WITHIN)
        self._process.close()
