"""A hostile stream through a real worker: what it counted, what it kept, what it cost."""

import asyncio
import hashlib
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import aiokafka
from kafka import KafkaConsumer, TopicPartition

from streamapp.core.hashing import murmur2
from tests.hostile.generator import SETTINGS, Sent
from tests.integration.workers import Deployment, Worker, until

PARTITIONS = 4
CHUNK = 2000
"""Messages that are sent at a time."""
POLL = 0.5
"""Seconds between two looks at a worker: each costs it something."""
TICKS = 100
"""Of a CPU second, as Linux counts it."""

Letter = tuple[str, str, bytes]
"""Topic, reason, and a hash of the value."""


@dataclass
class Trial:
    """What was sent to one worker, and what became of it."""

    sent: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By topic and fate."""
    letters: Counter[Letter] = field(default_factory=Counter)
    """That have to be on ``dead-letters``."""
    kinds: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    cpu: float = 0.0
    """Seconds of CPU until every message was counted."""
    bytes_refused: int = 0
    rss_before: int = 0
    """Resident bytes of the worker before the first message; the next one: at most, until the last one."""
    rss_peak: int = 0
    problems: list[str] = field(default_factory=list)
    """What was not as it has to be."""

    @property
    def bad(self) -> int:
        """Messages that were refused."""
        return sum(self.letters.values())

    @property
    def good(self) -> int:
        """All others."""
        return sum(self.sent.values()) - self.bad

    @property
    def pairs(self) -> int:
        """Good predictions, each with an outcome."""
        return self.sent["predictions", "accepted"]


def trial(broker: str, folder: Path, prefix: str, messages: Iterable[Sent], *, timeout: float = 120.0) -> Trial:
    """Send messages, let one worker have them, and compare.

    Args:
        broker: ``host:port``.
        folder: For the worker's files.
        prefix: Of topics and groups.
        messages: What is sent.
        timeout: Seconds for the worker to be done.
    """
    found = Trial()
    folder.mkdir(parents=True, exist_ok=True)
    deployment = Deployment(broker, folder, prefix, models=SETTINGS, partitions=PARTITIONS)
    try:
        deployment.create_topics()
        idle = deployment.start()
        until(idle.ready, "ready with nothing to do", timeout=60)
        found.rss_before = memory(idle)[0]
        idle.stop()
        idle.close()
        deployment.workers.remove(idle)
        # All is there before the worker that is measured: so it never waits for more.
        asyncio.run(publish(deployment, noted(found, messages)))
        worker = deployment.start()
        until(worker.ready, "ready", timeout=60)
        began = cpu(worker)
        until(lambda: counted(deployment, found), "every message is counted", timeout)
        found.cpu = cpu(worker) - began
        until(lambda: settled(deployment, found), "every outcome of nothing is given up", timeout=60)
        found.rss_peak = memory(worker)[1]
        _check(deployment, worker, found)
    finally:
        deployment.close()
    return found


def noted(found: Trial, messages: Iterable[Sent]) -> Iterator[Sent]:
    """Yield messages, having noted what has to become of them."""
    for message in messages:
        found.sent[message.topic, message.fate] += 1
        found.kinds[message.kind] += 1
        found.bytes += len(message.value or b"")
        if message.rejected:
            found.bytes_refused += len(message.value or b"")
            found.letters[message.topic, message.fate, _hash(message.value)] += 1
        yield message


async def publish(deployment: Deployment, messages: Iterator[Sent]) -> None:
    """Send messages where producers would send them: by the hash of their keys, predictions before outcomes."""
    async with aiokafka.AIOKafkaProducer(
        bootstrap_servers=deployment.broker, max_batch_size=1 << 20, max_request_size=2 << 20, linger_ms=5
    ) as kafka:
        while chunk := list(islice(messages, CHUNK)):
            places = (murmur2([message.key or b"" for message in chunk]) & 0x7FFFFFFF) % deployment.partitions
            for topic in ("predictions", "outcomes"):
                for partition in range(deployment.partitions):
                    some = [m for m, at in zip(chunk, places, strict=True) if at == partition and m.topic == topic]
                    sent = [
                        await kafka.send_batch(batch, deployment.topics.full(topic), partition=partition)
                        for batch in _batches(kafka, some)
                    ]
                    await asyncio.gather(*sent)


def _batches(kafka: aiokafka.AIOKafkaProducer, messages: list[Sent]) -> Iterator[Any]:
    batch = kafka.create_batch()
    for message in messages:
        if batch.append(key=message.key, value=message.value, timestamp=None) is None:
            yield batch
            batch = kafka.create_batch()
            assert batch.append(key=message.key, value=message.value, timestamp=None) is not None
    if batch.record_count():
        yield batch


def counted(deployment: Deployment, found: Trial) -> bool:
    """Tell whether all but the outcomes of nothing have been counted; those wait for their predictions first."""
    time.sleep(POLL)
    _alive(deployment)
    events: dict[str, dict[str, int]] = deployment.summary()["events"]
    for topic in ("predictions", "outcomes"):
        wanted = sum(n for (at, fate), n in found.sent.items() if at == topic and fate != "unmatched")
        if sum(events.get(topic, {}).get(name, 0) for name in ("accepted", "rejected", "duplicate", "late")) < wanted:
            return False
    return deployment.resolved("fraud") >= found.pairs


def settled(deployment: Deployment, found: Trial) -> bool:
    """Tell whether no outcome waits any more."""
    _alive(deployment)
    outcomes: dict[str, int] = deployment.summary()["events"].get("outcomes", {})
    return outcomes.get("unmatched", 0) >= found.sent["outcomes", "unmatched"]


def _alive(deployment: Deployment) -> None:
    for worker in deployment.workers:
        assert worker.exit_code is None, worker.log.read_text(errors="replace")[-3000:]


def _check(deployment: Deployment, worker: Worker, found: Trial) -> None:
    problems, events = found.problems, deployment.summary()["events"]
    for topic in ("predictions", "outcomes"):
        wanted: Counter[str] = Counter()
        for (at, fate), n in found.sent.items():
            if at == topic:
                wanted["read"] += n
                wanted[fate if fate in ("accepted", "duplicate", "unmatched") else "rejected"] += n
        wanted.update({"late": 0, "waiting": 0, "duplicate": 0})
        were = {name: events[topic].get(name, 0) for name in wanted}
        if were != wanted:
            problems.append(f"{topic}: {were}, not {dict(wanted)}")
    reasons = {(topic, reason): 0 for topic, reason, _ in found.letters}
    for (topic, reason, _), n in found.letters.items():
        reasons[topic, reason] += n
    status, metrics = worker.get("/metrics")
    told = {(m[2], m[1]): int(float(m[3])) for m in _REJECTED.finditer(metrics.decode())}
    if status != 200 or {key: n for key, n in told.items() if n} != reasons:
        problems.append(f"rejected by reason: {told}, not {reasons}")
    groups = deployment.groups("fraud").values()
    if sum(group["outcomes"] for group in groups) != found.pairs:
        problems.append(f"pairs: {sum(group['outcomes'] for group in groups)}, not {found.pairs}")
    if models := deployment.summary()["models"].keys() - {"fraud"}:
        problems.append(f"models that nobody sent: {models}")
    if not worker.ready():
        problems.append("it is not ready")
    kept = Counter(dead_letters(deployment))
    if kept != found.letters:
        missing, more = (found.letters - kept).total(), (kept - found.letters).total()
        problems.append(f"dead letters: {missing} missing, {more} too many")
    if (code := worker.stop()) != 0:
        problems.append(f"exit code {code}")
    log = worker.log.read_text(errors="replace")
    problems += [line for line in log.splitlines() if "Traceback" in line or "parked" in line or " ending " in line]


_REJECTED = re.compile(r'^streamapp_rejected_total\{reason="(\w+)",topic="(\w+)"\} (\S+)$', re.MULTILINE)


def dead_letters(deployment: Deployment) -> Iterator[Letter]:
    """Yield what is on ``dead-letters``, without holding all of it."""
    consumer = KafkaConsumer(
        bootstrap_servers=deployment.broker, isolation_level="read_committed", enable_auto_commit=False
    )
    name = deployment.topics.dead_letters
    parts = [TopicPartition(name, p) for p in sorted(consumer.partitions_for_topic(name) or ())]
    consumer.assign(parts)
    consumer.seek_to_beginning(*parts)
    ends = consumer.end_offsets(parts)
    while any(consumer.position(tp) < ends[tp] for tp in parts):
        for records in consumer.poll(timeout_ms=500).values():
            for record in records:
                headers = dict(record.headers)
                topic = headers["topic"].decode().removeprefix(deployment.topics.prefix)
                yield topic, headers["reason"].decode(), _hash(record.value)
    consumer.close()


def _hash(value: bytes | None) -> bytes:
    return hashlib.blake2b(value or b"", digest_size=8).digest()


def cpu(worker: Worker) -> float:
    """Return the CPU seconds that a worker has used."""
    fields = Path(f"/proc/{worker.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(worker: Worker) -> tuple[int, int]:
    """Return the resident bytes of a worker, now and at most."""
    status = Path(f"/proc/{worker.pid}/status").read_text()
    now, peak = (int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak
