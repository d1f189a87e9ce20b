"""A broker in memory: logs, a reader, a producer that is fenced, and a consumer that only remembers.

They keep the rules that the shell relies on: what was committed is there at once and whole, a newer owner of a
transactional id fences the older one, and a position that a log does not hold is refused.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from faust.types import TP

from streamapp.config import ProcessConfig
from streamapp.core.settings import Settings
from streamapp.errors import CheckpointError
from streamapp.stream.producer import Acknowledged, Fenced, Record
from streamapp.stream.records import Records
from streamapp.stream.task import Surroundings, Task
from streamapp.stream.topics import Topics
from streamapp.stream.transport import Batch, EndProof

T = TypeVar("T")
START = 1_700_000_000.0


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, which must come soon."""
    return asyncio.run(asyncio.wait_for(work, 20))


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class Stored:
    """One record of a log, with the names that aiokafka's have."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp_type: int = 1
    """1: the broker's."""


class Broker:
    """Partitions by (topic, number), and the wall clock that stamps records."""

    def __init__(self) -> None:
        self.logs: dict[tuple[str, int], list[Stored]] = {}
        self.starts: dict[tuple[str, int], int] = {}
        self.owners: dict[str, MemoryProducer] = {}
        self.producers: list[MemoryProducer] = []
        self.clock = Clock(START)
        self.holds = False
        """Whether what is made from now on waits for its gate before it starts."""
        self.reads: list[tuple[str, int, int]] = []
        """Topic, partition and start of each read."""
        self.ids: dict[str, str] = {}
        """Of topics; those of others are not told."""

    def append(
        self,
        topic: str,
        value: bytes | None,
        *,
        partition: int = 0,
        key: bytes | None = None,
        at: float | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> int:
        """Append a record and return its offset."""
        log = self.logs.setdefault((topic, partition), [])
        offset = log[-1].offset + 1 if log else self.starts.get((topic, partition), 0)
        log.append(Stored(offset, round((self.clock() if at is None else at) * 1000), key, value, headers))
        return offset

    def end(self, topic: str, partition: int = 0) -> int:
        log = self.logs.get((topic, partition))
        return log[-1].offset + 1 if log else self.starts.get((topic, partition), 0)

    def drop_before(self, topic: str, offset: int, partition: int = 0) -> None:
        """Remove old records, as retention does."""
        self.starts[topic, partition] = offset
        self.logs[topic, partition] = [r for r in self.logs.get((topic, partition), []) if r.offset >= offset]

    def records(self, topic: str, partition: int = 0) -> list[Stored]:
        return list(self.logs.get((topic, partition), []))

    def batch(self, topic: str, start: int, end: int | None = None, partition: int = 0) -> Batch:
        """Return what a fetch from *start* would bring, up to before *end*."""
        end = self.end(topic, partition) if end is None else end
        records = [r for r in self.records(topic, partition) if start <= r.offset < end]
        return Batch(tp=TP(topic, partition), start=start, end=end, records=Records.of(records))

    def reader(self, config: ProcessConfig | None = None) -> Any:
        return MemoryReader(self)

    def producer(self, config: ProcessConfig, role: str, partition: int) -> "MemoryProducer":
        made = MemoryProducer(self, f"{config.topic_prefix}{role}-{partition}")
        if self.holds:
            made.gate.clear()
        self.producers.append(made)
        return made


class MemoryReader:
    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def __aenter__(self) -> "MemoryReader":
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def beginning(self, topic: str, partition: int) -> int:
        return self._broker.starts.get((topic, partition), 0)

    async def end(self, topic: str, partition: int) -> int:
        return self._broker.end(topic, partition)

    async def topic_ids(self, topics: Iterable[str]) -> Mapping[str, str]:
        return {topic: self._broker.ids[topic] for topic in topics if topic in self._broker.ids}

    async def record(self, topic: str, partition: int, offset: int) -> Any:
        async for records, _ in self.read(topic, partition, offset, offset + 1):
            return records[0] if records and records[0].offset == offset else None
        return None

    async def columns(
        self, topic: str, partition: int, start: int, end: int | None = None, *, follow: bool = False
    ) -> AsyncIterator[tuple[Records, int]]:
        async for records, position in self.read(topic, partition, start, end, follow=follow):
            yield Records.of(records), position

    async def read(
        self, topic: str, partition: int, start: int | None = None, end: int | None = None, *, follow: bool = False
    ) -> AsyncIterator[tuple[list[Any], int]]:
        broker = self._broker
        beginning = await self.beginning(topic, partition)
        position = beginning if start is None else start
        broker.reads.append((topic, partition, position))
        if not beginning <= position <= broker.end(topic, partition):
            raise CheckpointError(f"{topic}[{partition}] does not hold offset {position}")
        while end is None or position < end:
            records = [record for record in broker.records(topic, partition) if record.offset >= position][:3]
            if records:
                position = records[-1].offset + 1
                if end is not None:
                    records = [record for record in records if record.offset < end]
                yield records, position
            elif follow:
                await asyncio.sleep(0)
            elif end is None:
                return
            else:
                raise CheckpointError(f"{topic}[{partition}] ends at {position}, expected {end}")


class MemoryProducer:
    """Writes what is committed to the broker's logs, unless told to fail or to wait."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.name = name
        self.commits: list[list[Record]] = []
        self.failure: Exception | None = None
        """Raised by every start and commit."""
        self.failures: list[Exception] = []
        """Raised by the next commits, one by each."""
        self.gate = asyncio.Event()
        """Start and commits wait for it."""
        self.gate.set()
        self.waiting = 0
        self.stopped = False
        self._broker = broker

    async def start(self) -> None:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self._broker.owners[self.name] = self

    async def commit(self, records: Sequence[Record]) -> Acknowledged:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        if self.failures:
            raise self.failures.pop(0)
        if self.failure is not None:
            raise self.failure
        assert not self.stopped
        if self._broker.owners.get(self.name) is not self:
            raise Fenced(f"{self.name}: another one is the owner")
        self.commits.append(list(records))
        for r in records:
            assert r.key is not None or r.value is not None
            self._broker.append(r.topic, r.value, partition=r.partition or 0, key=r.key, headers=r.headers)
        return Acknowledged(self._broker.clock(), self._broker.clock())

    async def stop(self) -> None:
        self.stopped = True


class MemoryConsumer:
    """What the runtime asks of Faust's consumer."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.assigned: set[TP] = set()
        self.paused: set[TP] = set()
        self.seeks: list[dict[TP, int]] = []
        self.seek_error: Exception | None = None
        self.group: dict[TP, int] = {}
        self.group_gate = asyncio.Event()
        """Commits of the group's positions wait for it."""
        self.group_gate.set()
        self.proofs: dict[TP, EndProof] = {}
        self.transactions: dict[TP, int] = {}
        """Where one is open, by partition."""
        self.silent = 0.0
        self.flows = True
        self.left = False
        self.leave_gate = asyncio.Event()
        """The group answers only then."""
        self.leave_gate.set()

    def assignment(self) -> set[TP]:
        return set(self.assigned)

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        self.paused |= set(tps)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        self.paused -= set(tps)

    async def seek_wait(self, positions: Mapping[TP, int]) -> None:
        if self.seek_error is not None:
            raise self.seek_error
        self.seeks.append(dict(positions))

    def end_of(self, tp: TP) -> int | None:
        return self._broker.end(tp.topic, tp.partition)

    def silence(self) -> float:
        return self.silent

    def end_proof(self, tp: TP) -> EndProof | None:
        return self.proofs.get(tp)

    def withheld(self, tp: TP) -> int | None:
        return self.transactions.get(tp)

    def clear_proofs(self) -> None:
        self.proofs.clear()

    async def group_position(self, tp: TP) -> int | None:
        return self.group.get(tp)

    async def commit_group(self, positions: Mapping[TP, int]) -> None:
        await self.group_gate.wait()
        self.group |= positions

    def end_flow(self) -> None:
        self.flows = False

    async def leave(self) -> None:
        await self.leave_gate.wait()
        self.left = True


@dataclass
class Bench:
    """One task on a broker in memory."""

    folder: Path
    broker: Broker = field(default_factory=Broker)
    settings: Settings = field(default_factory=Settings)
    options: dict[str, Any] = field(default_factory=dict)
    proofs: dict[TP, EndProof] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    worked: set[TP] = field(default_factory=set)

    @property
    def topics(self) -> Topics:
        return Topics("t.")

    @property
    def config(self) -> ProcessConfig:
        options = {"partitions": 1, "scored_partitions": 1, **self.options}
        return ProcessConfig(
            topic_prefix="t.",
            group_id="t",
            web_port=0,
            data=self.folder,
            artifacts=str(self.folder / "store"),
            **options,
        )

    def around(self) -> Surroundings:
        async def worked(tp: TP) -> bool:
            return tp in self.worked

        return Surroundings(
            config=self.config,
            settings=self.settings,
            topics=self.topics,
            worked=worked,
            end_proof=self.proofs.get,
            withheld=lambda _: None,
            clock=self.broker.clock,
            reader=self.broker.reader,
            producer=self.broker.producer,
            monotonic=self.clock,
        )


async def commit(task: Task) -> list[Record]:
    """Commit what a task has, and return it."""
    records = list(task.take())
    task.acknowledged(await task.producer.commit(records))
    return records


def json(**fields: Any) -> bytes:
    return msgspec.json.encode(fields)


def prediction(number: int, ts: float, **fields: Any) -> bytes:
    return json(**{"prediction_id": f"p{number}", "model": "m", "ts": ts, "prediction": True, **fields})


def outcome(number: int, ts: float, **fields: Any) -> bytes:
    return json(**{"prediction_id": f"p{number}", "ts": ts, "outcome": True, **fields})
