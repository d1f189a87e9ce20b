"""Waiting until everything that must come has come."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from streamapp.core.events import ScoredBatch
from streamapp.core.settings import Settings
from streamapp.stream.codec import decode_scored
from streamapp.stream.topics import Topics
from tests.faults.checks import SCORED_PARTITIONS, id_of, position
from tests.faults.logs import Log, committed
from tests.faults.updates import due_updates

LEARNED = 60.0
"""Seconds within which requests for training are answered that can be."""


def messages_of(got: Mapping[tuple[str, int], list[Any]]) -> Iterator[tuple[ScoredBatch, Any]]:
    """Yield the messages of ``scored`` that have rows, with their records."""
    for (topic, _), records in got.items():
        for record in records if topic == "scored" else ():
            message = decode_scored(record.value)
            if isinstance(message, ScoredBatch):
                yield message, record


def settle(
    broker: str, topics: Topics, wanted: int, *, exempt: Collection[str], within: float, alive: Callable[[], bool]
) -> None:
    """Wait until predictions have their verdicts, and monitors have applied them.

    If only the number of verdicts is wrong in the end, nothing is raised: who compares them can say what is wrong.

    Args:
        broker: Where to begin.
        topics: Of the deployment.
        wanted: Number of verdicts.
        exempt: Names of tasks that have stopped for a reason.
        within: Seconds.
        alive: Whether any worker runs.
    """
    log = Log(broker, topics, "scored", "checkpoints-monitor")
    ends: dict[int, int] = {}
    count = 0
    end = time.monotonic() + within
    try:
        while True:
            for message, record in messages_of(log.more()):
                count += len(message) if f"joiner-{message.partition}" not in exempt else 0
                ends[record.partition] = record.offset + 1
            behind = {
                number: last
                for number, last in ends.items()
                if f"monitor-{number}" not in exempt
                and position(log.records["checkpoints-monitor", number], topics) < last
            }
            if count >= wanted and not behind:
                return
            late = time.monotonic() >= end
            if late and count and not behind:
                return
            found = f"{count} of {wanted} verdicts, monitors behind {behind}"
            assert alive(), f"not settled when the last worker ended: {found}"
            assert not late, f"not settled within {within:g} s: {found}"
    finally:
        log.close()


def learn(broker: str, topics: Topics, settings: Settings, *, exempt: Collection[str]) -> set[str]:
    """Wait until every request for training that can be answered is, and return the ids of the answers."""
    log = committed(broker, topics, ("scored", "retrain"))
    for number in range(SCORED_PARTITIONS):
        if f"learner-{number}" in exempt:
            log.records.pop(("retrain", number), None)
    due = set(due_updates(log, settings))
    published = Log(broker, topics, "model-updates")
    end = time.monotonic() + LEARNED
    try:
        while missing := due - {id_of(record) for record in published.of("model-updates")}:
            assert time.monotonic() < end, f"not published within {LEARNED:g} s: {missing}"
            published.more()
    finally:
        published.close()
    return due
