"""What publishing costs a service: the time of one call at a steady pace, and how much goes through.

A service here is this process, free to use every core; the broker, a real Apache Kafka, is pinned to all cores but
the first. It publishes predictions with six features as dicts, the dearer of the two kinds of events, to a topic of
eight partitions, with the publisher's defaults (idempotent, acknowledged by all replicas, no compression).

- *call*: the time that :meth:`EventPublisher.publish` takes of the caller's thread, event by event, at a thousand
  events a second. Between two events the caller sleeps, and caches get cold: in a loop the same call
  takes a quarter of it.
- *sustained*: events that Kafka has acknowledged, divided by the time from the first call until the last receipt,
  while the caller publishes as fast as the queue takes events and waits whenever it is full.

Both for each of the publisher's two clients, round after round in turns.
"""

import os
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.arena import Arena
from benchmarks.process import ALLOWED
from benchmarks.report import cell, machine
from streamapp.client import Client, EventPublisher
from streamapp.stream.topics import create, plan

CLIENTS: tuple[Client, ...] = ("kafka-python", "confluent-kafka")
RATE = 1000.0
PARTITIONS = 8
PATIENCE = 120.0
FULL = 0.002
"""Seconds that the caller waits when the queue is full."""
ROWS = {
    "call_median_us": ("publish() at 1,000 events/s: median, µs", ",.1f", "<= 20"),
    "call_p99_us": ("p99, µs", ",.0f", "<= 1,000"),
    "call_max_us": ("largest, µs", ",.0f", ""),
    "sustained": ("sustained, events/s", ",.0f", ">= 5,000 / 50,000"),
    "cpu_us_per_event": ("CPU of the process per event, µs", ",.1f", ""),
}
"""Label, format and target of each figure."""


def add(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "publisher",
        help="What publishing costs a service.",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("--json", action="store_true", help="print one object instead of a table")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (default 10)")
    parser.add_argument("--rounds", type=int, default=3, help="of each client, interleaved (default 3)")
    parser.add_argument("--quick", action="store_true", help="one round of half a second: shows that it runs")
    parser.add_argument("--broker", help="host:port of a Kafka that runs; default: start one")


def _run(arguments: Any) -> tuple[Mapping[str, Any], Any]:
    seconds, rounds = (0.5, 1) if arguments.quick else (arguments.seconds, arguments.rounds)
    return run(seconds=seconds, rounds=rounds, broker=arguments.broker), show


def run(*, seconds: float, rounds: int, broker: str | None = None) -> dict[str, Any]:
    """Measure both clients, and return medians with the smallest and the largest of the rounds."""
    found: dict[Client, list[dict[str, float]]] = {client: [] for client in CLIENTS}
    with Arena(broker) as arena:
        os.sched_setaffinity(0, ALLOWED)
        for _ in range(rounds):
            for client in CLIENTS:
                topics = arena.topics()
                create(arena.broker, plan(topics, partitions=PARTITIONS)[:2], replication=1)
                found[client].append(_round(arena.broker, topics.prefix, client, seconds))
    report: dict[str, Any] = {"machine": machine(), "seconds": seconds, "rounds": rounds, "rate": RATE}
    for name, done in found.items():
        report[name] = {
            each: {
                "median": float(np.median([one[each] for one in done])),
                "min": min(one[each] for one in done),
                "max": max(one[each] for one in done),
            }
            for each in done[0]
        }
    return report


def _round(broker: str, prefix: str, client: Client, seconds: float) -> dict[str, float]:
    events = [_event(number) for number in range(10_000)]
    with EventPublisher(broker, prefix=prefix, client=client) as publisher:
        publisher.publish(events[0])
        if not publisher.flush(PATIENCE):
            raise RuntimeError(f"{client} did not deliver one event in {PATIENCE:g} s")
        calls = _calls(publisher, events, seconds)
        found = _sustained(publisher, events, seconds)
    if publisher.failed or publisher.rejected:
        raise RuntimeError(f"{client}: {publisher.failed} events failed, {publisher.rejected} were rejected")
    return {
        "call_median_us": float(np.median(calls)) * 1e6,
        "call_p99_us": float(np.percentile(calls, 99)) * 1e6,
        "call_max_us": float(np.max(calls)) * 1e6,
        **found,
    }


def _event(number: int) -> dict[str, Any]:
    names = ("amount", "age", "hour", "speed", "distance", "count")
    return {
        "prediction_id": f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}-{number:012d}",
        "model": "fraud",
        "group": "champion" if number % 2 else "challenger",
        "ts": 1.7e9 + number / 1000,
        "prediction": number % 3 == 0,
        "scores": number % 1000 / 1000,
        "version": "v1",
        "latency": 0.012,
        "features": {name: round(number / 7919 % 1, 4) + place for place, name in enumerate(names)},
    }


def _calls(publisher: EventPublisher, events: list[dict[str, Any]], seconds: float) -> list[float]:
    """Return the seconds that each call took."""
    took = []
    clock = time.perf_counter
    due = clock()
    for number in range(int(RATE * seconds)):
        event = events[number % len(events)]
        if (early := due - clock()) > 0:
            time.sleep(early)
        before = clock()
        taken = publisher.publish(event)
        took.append(clock() - before)
        if not taken:
            raise RuntimeError("the queue was full at a thousand events a second")
        due += 1 / RATE
    publisher.flush(PATIENCE)
    return took


def _sustained(publisher: EventPublisher, events: list[dict[str, Any]], seconds: float) -> dict[str, float]:
    """Return events a second, and the CPU time of one."""
    publish, size, number, before = publisher.publish, len(events), 0, publisher.delivered
    cpu, began = time.process_time(), time.perf_counter()
    end = began + seconds
    while time.perf_counter() < end:
        if publish(events[number % size]):
            number += 1
        else:
            time.sleep(FULL)
    if not publisher.flush(PATIENCE):
        raise RuntimeError(f"not all was delivered {PATIENCE:g} s after the last event")
    delivered = publisher.delivered - before
    return {
        "sustained": delivered / (time.perf_counter() - began),
        "cpu_us_per_event": (time.process_time() - cpu) / delivered * 1e6,
    }


def show(report: Mapping[str, Any]) -> None:
    """Print a table."""
    table = Table(
        title=f"EventPublisher, {report['rounds']} rounds of {report['seconds']:g} s: median (smallest to largest)",
        caption=f"Load average {report['machine']['load_average']:.1f}.",
    )
    for heading in ("", *CLIENTS, "wanted"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, (label, shape, wanted) in ROWS.items():
        figures = [report[client][name] for client in CLIENTS]
        cells = [cell(one["median"], one["min"], one["max"], shape) for one in figures]
        table.add_row(label, *cells, wanted)
    Console().print(table)
