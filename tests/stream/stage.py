"""A whole runtime on a broker in memory."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from faust.types import TP

from streamapp.config import ROLES, Role
from streamapp.core.events import Tick
from streamapp.core.settings import Settings
from streamapp.stream.codec import encode_scored
from streamapp.stream.runtime import TASKS, Runtime
from tests.stream.doubles import START, Bench, Broker, MemoryConsumer, MemoryProducer

TOPICS = {"joiner": ("t.predictions", "t.outcomes"), "monitor": ("t.scored",), "learner": ("t.retrain",)}


class Stage:
    """A runtime on a broker in memory, and how it ended."""

    def __init__(
        self,
        folder: Path,
        *,
        roles: tuple[Role, ...] = ROLES,
        broker: Broker | None = None,
        make: Any = TASKS,
        recoveries: Any = None,
        settings: Settings | None = None,
    ) -> None:
        self.bench = Bench(folder, options={"partitions": 2, "scored_partitions": 2, "commit_interval": 0.001})
        self.broker = self.bench.broker = broker or self.bench.broker
        self.consumer = MemoryConsumer(self.broker)
        self.exits: list[int] = []
        self.runtime = Runtime(
            self.bench.config,
            settings or Settings(),
            roles,
            make=make,
            recoveries=recoveries,
            leave=self.exits.append,
            reader=self.broker.reader,
            producer=self.broker.producer,
            monotonic=self.bench.clock,
        )
        self.runtime.attach(self.consumer)

    async def own(self, *names: str) -> None:
        """Be assigned tasks, e.g. "joiner-0"."""
        pairs = [name.split("-") for name in names]
        self.consumer.assigned = {TP(topic, int(number)) for role, number in pairs for topic in TOPICS[role]}
        await self.runtime.assign(self.consumer.assigned)
        positions = await self.runtime.positions(self.consumer.assigned)
        await self.consumer.seek_wait(positions)
        self.runtime.sought(positions)

    def task(self, name: str) -> Any:
        role, number = name.split("-")
        return self.runtime.tasks[role, int(number)]  # type: ignore[index]

    def producer(self, name: str) -> MemoryProducer:
        producer: MemoryProducer = self.task(name).producer
        return producer

    async def ticks(self, partition: int = 0, count: int = 1) -> None:
        """Let a monitor read ticks of a joiner."""
        for _ in range(count):
            self.broker.append("t.scored", encode_scored(Tick(partition=0, log_time=START)), partition=partition)
        start = self.task(f"monitor-{partition}").position(TP("t.scored", partition))
        await self.runtime.handle(self.broker.batch("t.scored", start, partition=partition))

    def checkpoints(self, name: str) -> int:
        """Return how often a task has committed, by what is in its checkpoint."""
        role, number = name.split("-")
        records = self.broker.records(f"t.checkpoints-{role}", int(number))
        return sum(record.key == b"input" for record in records)

    def position(self, name: str) -> int:
        """Return the first input's position as the newest checkpoint has it, -1 without one."""
        role, number = name.split("-")
        records = self.broker.records(f"t.checkpoints-{role}", int(number))
        values = [record.value or b"" for record in records if record.key == b"input"]
        return int(msgspec.msgpack.decode(values[-1])["inputs"][TOPICS[role][0]]["position"]) if values else -1


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def rounds(stage: Stage, count: int = 5) -> None:
    """Let the commit loop go round."""
    for _ in range(count):
        await asyncio.sleep(stage.bench.config.commit_interval)
        await asyncio.sleep(0)
