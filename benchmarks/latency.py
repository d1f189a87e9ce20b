"""How long it takes from an outcome being sent until ``/metrics`` has counted it.

One Apache Kafka, one worker as it is shipped, alone on its core, and a steady load from a process of its own
(:mod:`benchmarks.steady`): half of the events are predictions with six features, half are outcomes.

An outcome begins to count when the producer is called with it. It is visible when an answer of ``/metrics`` has arrived
whose ``streamapp_outcomes_total`` is at least its number among the outcomes of its partition. The worker keeps the
order within a partition, so for each outcome that is the moment at which it itself is in; partitions are told apart by
the groups of their predictions. ``/metrics`` is read every 50 ms, and what is between two readings counts in full.

The first seconds, in which the worker and the broker's compiler get warm, do not count.
"""

import re
import subprocess
import sys
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.arena import Arena
from benchmarks.entry import Stage, streamapp
from benchmarks.process import Contestant
from benchmarks.recording import Recording, Shape
from benchmarks.report import machine
from streamapp.stream.topics import create, plan

PARTITIONS = 4
POLL = 0.05
WARM_UP = 10.0
PATIENCE = 60.0
STEADY = 0.25
"""Most seconds that the load may be late; beyond, the machine had other things to do and the run says little."""
_COUNTED = re.compile(r'^streamapp_outcomes_total\{group="p(\d+)",model="fraud"\} (\S+)', re.MULTILINE)


def add(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "latency",
        help="From an outcome sent to /metrics.",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("--json", action="store_true", help="print one object instead of a table")
    parser.add_argument("--rate", type=float, default=10_000, help="events a second, both kinds (default 10,000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="beyond the warm-up (default 60)")
    parser.add_argument("--quick", action="store_true", help="1,000 events a second for 3 s: shows that it runs")
    parser.add_argument("--broker", help="host:port of a Kafka that runs; default: start one")


def _run(arguments: Any) -> tuple[Mapping[str, Any], Any]:
    rate, seconds = (1000.0, 3.0) if arguments.quick else (arguments.rate, arguments.seconds)
    return run(rate=rate, seconds=seconds, broker=arguments.broker), show


def run(*, rate: float, seconds: float, broker: str | None = None) -> dict[str, Any]:
    """Measure, and return the quantiles of the latency in seconds.

    Raises:
        RuntimeError: Not every outcome was counted.
    """
    with Arena(broker) as arena:
        topics = arena.topics()
        create(arena.broker, plan(topics, partitions=PARTITIONS)[:2], replication=1)
        recording = Recording(topics, Shape(pairs=0, partitions=PARTITIONS), 0, {})
        with arena.stage(recording) as stage:
            contestant = streamapp(stage)
            try:
                return {"machine": machine(), **_measure(stage, contestant, rate / 2, seconds)}
            finally:
                contestant.close()


def _measure(stage: Stage, contestant: Contestant, rate: float, seconds: float) -> dict[str, Any]:
    worker = contestant.processes[0]
    _wait(lambda: worker.get("/readyz") is not None, "the worker is not ready")
    path = stage.folder / "sent.npz"
    total = WARM_UP + seconds
    arguments = [stage.broker, stage.recording.topics.prefix, str(PARTITIONS), "1", str(rate), str(total), str(path)]
    cpu, began = worker.cpu(), time.monotonic()
    with subprocess.Popen([sys.executable, "-m", "benchmarks.steady", *arguments]) as load:
        seen = _watch(contestant, load, int(rate * total))
        ended, used = time.monotonic(), worker.cpu()
        if load.wait() != 0:
            raise RuntimeError("the load could not be sent")
    waited, late = _latencies(path, seen)
    return {
        "events_per_second": 2 * rate,
        "seconds": seconds,
        "outcomes": len(waited),
        "polls": len(seen),
        "latency": {
            "p50": float(np.percentile(waited, 50)),
            "p99": float(np.percentile(waited, 99)),
            "max": float(np.max(waited)),
        },
        "load_late": {"p99": float(np.percentile(late, 99)), "max": float(np.max(late))},
        "steady": float(np.max(late)) <= STEADY,
        "worker_cpu_share": (used - cpu) / (ended - began),
    }


def _watch(contestant: Contestant, load: subprocess.Popen[bytes], outcomes: int) -> list[tuple[float, dict[int, int]]]:
    """Return what the worker had counted by partition, and when its answer was here, until all is counted."""
    worker, seen = contestant.processes[0], []
    deadline: float | None = None
    while True:
        counted = {int(place): int(float(n)) for place, n in _COUNTED.findall((worker.get("/metrics") or b"").decode())}
        now = time.monotonic()
        seen.append((now, counted))
        if sum(counted.values()) >= outcomes:
            return seen
        if load.poll() is not None:
            deadline = deadline or now + PATIENCE
            if now > deadline:
                found = f"only {sum(counted.values()):,} of {outcomes:,} outcomes were counted"
                raise RuntimeError(f"{found}; the worker's last words: {worker.tail()}")
        time.sleep(POLL)


def _latencies(path: Path, seen: list[tuple[float, dict[int, int]]]) -> tuple[Any, Any]:
    """Return how long each outcome took after the warm-up, and how late the load was."""
    times = np.array([at for at, _ in seen])
    with np.load(path) as sent:
        first = min(sent[f"p{place}"][0] for place in range(PARTITIONS)) + WARM_UP
        waited = []
        for place in range(PARTITIONS):
            made = sent[f"p{place}"]
            counts = np.array([counted.get(place, 0) for _, counted in seen])
            arrived = times[np.searchsorted(counts, np.arange(1, len(made) + 1))]
            waited.append((arrived - made)[made >= first])
        return np.concatenate(waited), sent["late"]


def _wait(done: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} after {PATIENCE:g} s")
        time.sleep(0.1)


def show(report: Mapping[str, Any]) -> None:
    """Print a table."""
    table = Table(
        title=f"{report['events_per_second']:,.0f} events/s for {report['seconds']:g} s: outcome sent to /metrics",
        caption=f"{report['outcomes']:,} outcomes, {report['polls']:,} readings. The load was at most"
        f" {report['load_late']['max'] * 1e3:.0f} ms late. Load average {report['machine']['load_average']:.1f}.",
    )
    for heading in ("median", "p99 (wanted: <= 1 s)", "largest", "worker's share of its core"):
        table.add_column(heading, justify="right")
    latency = report["latency"]
    table.add_row(*(f"{latency[name]:.3f} s" for name in ("p50", "p99", "max")), f"{report['worker_cpu_share']:.0%}")
    console = Console()
    console.print(table)
    if not report["steady"]:
        console.print("The load was not steady: the machine was busy, and this run says little.")
