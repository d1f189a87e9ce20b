"""How long the stream stands still: the worker's event loop during scrapes, and during checkpoints.

One Apache Kafka, and one worker as it is shipped, alone on its core but for a clock on its event loop
(:mod:`benchmarks.probed`) that asks to be woken every millisecond. A stall is the time from one wake-up to the next.
A steady load (:mod:`benchmarks.steady`) keeps the worker at work: half predictions with six features, half outcomes.

- *scrape*: so many models of four groups that ``/metrics`` has 20 000 series, scraped again and again. Counted are the
  stalls that lie in a scrape, from the request until its answer is here.
- *between*: the same run, the stalls that lie in no scrape, to compare with.
- *checkpoint*: 1 000 000 predictions wait for outcomes that do not come; the joiners commit, and with that write their
  checkpoints, four times a second. Counted are all stalls.

Beside the stall stands the CPU time that the process used in it: a machine that is busy with other things makes the
one longer, not the other. ``--why`` also shows where the loop was in the longest ones.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.arena import Arena
from benchmarks.entry import Stage, streamapp
from benchmarks.process import Contestant
from benchmarks.recording import Shape
from benchmarks.report import machine

PARTITIONS = 4
WARM_UP = 5.0
PAUSE = 0.5
"""Seconds between two scrapes."""
PATIENCE = 300.0
Stall = dict[str, Any]
Window = tuple[float, float]


def add(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "stalls",
        help="How long the stream stands still.",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("--json", action="store_true", help="print one object instead of a table")
    parser.add_argument("--models", type=int, default=51, help="of four groups each, in scrapes (default 51)")
    parser.add_argument("--pending", type=int, default=1_000_000, help="that wait, in checkpoints (default 1,000,000)")
    parser.add_argument("--rate", type=float, default=10_000, help="events a second, both kinds (default 10,000)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each, beyond the warm-up (default 30)")
    parser.add_argument("--why", action="store_true", help="look at the loop's stack in long stalls; costs a little")
    parser.add_argument("--quick", action="store_true", help="small and for 2 s each: shows that it runs")
    parser.add_argument("--broker", help="host:port of a Kafka that runs; default: start one")


def _run(arguments: Any) -> tuple[Mapping[str, Any], Any]:
    size: dict[str, Any] = {name: getattr(arguments, name) for name in ("models", "pending", "rate", "seconds")}
    if arguments.quick:
        size = {"models": 2, "pending": 2000, "rate": 1000.0, "seconds": 2.0}
    return run(**size, why=arguments.why, broker=arguments.broker), show


def run(
    *, models: int, pending: int, rate: float, seconds: float, why: bool = False, broker: str | None = None
) -> dict[str, Any]:
    """Measure, and return for each situation the longest stalls in seconds."""
    report: dict[str, Any] = {"rate": rate, "seconds": seconds}
    with Arena(broker) as arena:
        report["machine"] = machine()
        load = rate / 2, WARM_UP + seconds
        recording = arena.recording(Shape(pairs=0, partitions=PARTITIONS))
        with arena.stage(recording) as stage, _Probed(stage, why=why) as probed:
            scrapes, series = probed.scraped(*load, models=models)
            stalls = probed.stalls()
        began, ended = scrapes[0][0], scrapes[-1][1]
        report["scrape"] = {
            **_longest(_within(stalls, scrapes)),
            "series": series,
            "scrapes": len(scrapes),
            "seconds": {
                "median": statistics.median(b - a for a, b in scrapes),
                "max": max(b - a for a, b in scrapes),
            },
        }
        report["between"] = _longest([one for one in _within(stalls, [(began, ended)]) if not _within([one], scrapes)])
        recording = arena.recording(Shape(pairs=0, pending=pending, partitions=PARTITIONS))
        with arena.stage(recording) as stage, _Probed(stage, why=why) as probed:
            window = probed.loaded(*load, pending=pending)
            stalls = probed.stalls()
        report["checkpoint"] = {**_longest(_within(stalls, [window])), "pending": pending}
    return report


class _Probed:
    """A worker with a clock on its loop."""

    def __init__(self, stage: Stage, *, why: bool) -> None:
        self._stage = stage
        self._path = stage.folder / "stalls.jsonl"
        os.environ["BENCH_STALLS"] = str(self._path)
        os.environ["BENCH_WHY"] = "1" if why else ""
        self._contestant: Contestant = streamapp(stage, module="benchmarks.probed")
        self._worker = self._contestant.processes[0]

    def __enter__(self) -> "_Probed":
        """Wait until it is ready."""
        self._wait(lambda: self._worker.get("/readyz") is not None, "the worker is not ready")
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._contestant.close()

    def scraped(self, rate: float, seconds: float, *, models: int) -> tuple[list[Window], int]:
        """Load it, scrape it, and return when each scrape began and ended, and how many series the last one had."""
        with self._load(rate, seconds, models) as load:
            self._wait(lambda: self._gauge("streamapp_outcomes_total") > 0, "nothing was joined")
            time.sleep(WARM_UP)
            scrapes = []
            body = b""
            while not scrapes or load.poll() is None:
                began = time.monotonic()
                body = self._worker.get("/metrics") or b""
                scrapes.append((began, time.monotonic()))
                time.sleep(PAUSE)
        self._check(load)
        return scrapes, sum(not line.startswith(b"#") for line in body.splitlines())

    def loaded(self, rate: float, seconds: float, *, pending: int) -> Window:
        """Wait until all that is pending is there, load it, and return when it was under load."""
        self._wait(lambda: self._gauge("streamapp_pending_predictions") >= pending, "not all is pending")
        with self._load(rate, seconds, 1) as load:
            time.sleep(WARM_UP)
            began = time.monotonic()
            load.wait()
            ended = time.monotonic()
        self._check(load)
        return began, ended

    def stalls(self) -> list[Stall]:
        """Return all stalls so far."""
        self._worker.cpu()  # raises if it has ended
        return [json.loads(line) for line in self._path.read_text().splitlines()]

    def _load(self, rate: float, seconds: float, models: int) -> subprocess.Popen[bytes]:
        topics, path = self._stage.recording.topics, self._stage.folder / "sent.npz"
        arguments = [self._stage.broker, topics.prefix, PARTITIONS, models, rate, seconds, path]
        return subprocess.Popen([sys.executable, "-m", "benchmarks.steady", *map(str, arguments)])

    @staticmethod
    def _check(load: subprocess.Popen[bytes]) -> None:
        if load.returncode != 0:
            raise RuntimeError("the load could not be sent")

    def _gauge(self, name: str) -> float:
        lines = (self._worker.get("/metrics") or b"").decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))

    def _wait(self, done: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            self._worker.cpu()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} after {PATIENCE:g} s")
            time.sleep(0.2)


def _within(stalls: Sequence[Stall], windows: Sequence[Window]) -> list[Stall]:
    """Return the stalls of which a part lies in one of the windows."""
    return [one for one in stalls if any(one["at"] > a and one["at"] - one["stall"] < b for a, b in windows)]


def _longest(stalls: Sequence[Stall]) -> dict[str, Any]:
    order = sorted(stalls, key=lambda one: one["stall"], reverse=True)
    busy = max(stalls, key=lambda one: min(one["stall"], one["cpu"]), default=None)
    return {
        "longest": order[0]["stall"] if order else 0.0,
        "longest_busy": min(busy["stall"], busy["cpu"]) if busy else 0.0,
        "above_20_ms": sum(one["stall"] > 0.02 for one in stalls),
        "above_50_ms": sum(one["stall"] > 0.05 for one in stalls),
        "worst": order[:5],
    }


def show(report: Mapping[str, Any]) -> None:
    """Print a table, and where the loop was if that was looked at."""
    scrape, checkpoint = report["scrape"], report["checkpoint"]
    table = Table(
        title=f"Stalls of the event loop at {report['rate']:,.0f} events/s, {report['seconds']:g} s each",
        caption=f"{scrape['scrapes']} scrapes, {scrape['seconds']['median'] * 1e3:.0f} ms each (longest"
        f" {scrape['seconds']['max'] * 1e3:.0f}). Load average {report['machine']['load_average']:.1f}.",
    )
    for heading in ("", "longest (wanted: <= 50 ms)", "most CPU in one", "above 20 ms", "above 50 ms"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, label in (
        ("scrape", f"in a scrape of {scrape['series']:,} series"),
        ("between", "between scrapes"),
        ("checkpoint", f"at checkpoints, {checkpoint['pending']:,} pending"),
    ):
        of = report[name]
        times = [f"{of[each] * 1e3:.0f} ms" for each in ("longest", "longest_busy")]
        table.add_row(label, *times, str(of["above_20_ms"]), str(of["above_50_ms"]))
    console = Console()
    console.print(table)
    for name in ("scrape", "between", "checkpoint"):
        for stall in report[name]["worst"]:
            if "stack" in stall:
                console.print(
                    f"{name}: {stall['stall'] * 1e3:.0f} ms, of it {stall['cpu'] * 1e3:.0f} ms CPU"
                    f" ({stall['loop_cpu'] * 1e3:.0f} ms in the loop's thread)\n{stall['stack']}",
                    markup=False,
                    highlight=False,
                )
