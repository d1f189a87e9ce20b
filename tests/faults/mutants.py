"""Workers with one deliberate defect each: the checks must notice every one of them.

``python -m tests.faults.mutants NAME`` is ``python -m agents`` with that defect.
"""

import asyncio
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import aiokafka

from streamapp.core.events import ScoredBatch
from streamapp.core.monitor import Monitor
from streamapp.stream import producer as producing
from streamapp.stream import runtime
from streamapp.stream.checkpoint import INPUT, Checkpoint
from streamapp.stream.joining import JoinerTask
from streamapp.stream.monitoring import MonitorTask
from streamapp.stream.producer import Acknowledged, Record, TransactionalProducer
from streamapp.stream.reader import Reader
from streamapp.stream.transport import Batch

LATE = 1500
"""Records of one task before a defect shows."""
LONG = 0.3
"""Seconds that a transaction is kept open where a defect needs somebody to die in it."""


def command(name: str) -> tuple[str, ...]:
    """Return Python's arguments that start a worker with a defect."""
    return "-m", "tests.faults.mutants", name


def slow_commit() -> None:
    """No defect: transactions only stay open for longer, as on a slow broker. This must pass."""
    send = producing._send

    async def slow(kafka: Any, records: Sequence[Record]) -> Acknowledged:
        answer = await send(kafka, records)
        await asyncio.sleep(LONG)
        return answer

    producing._send = slow


def skip_one_prediction() -> None:
    """One record is not handed to the joiner."""
    digest, seen = JoinerTask.digest, [0]

    def skipping(self: JoinerTask, batch: Batch) -> None:
        before, seen[0] = seen[0], seen[0] + len(batch.records)
        if before < LATE <= seen[0]:
            place = LATE - before - 1
            batch = replace(batch, records=batch.records[:place] + batch.records[place + 1 :])
        if batch.records:
            digest(self, batch)

    JoinerTask.digest = skipping  # type: ignore[method-assign]


def score_twice() -> None:
    """One message goes out twice."""
    outcome, seen = JoinerTask.outcome, [0]

    def doubling(self: JoinerTask) -> Any:
        records, state = outcome(self)
        before, seen[0] = seen[0], seen[0] + len(records)
        if before < 60 <= seen[0]:
            records = [record for record in records for _ in range(2)]
        return records, state

    JoinerTask.outcome = doubling  # type: ignore[method-assign]


def monitor_twice() -> None:
    """A monitor applies one message with rows twice."""
    apply, seen = Monitor.apply, [0]

    def doubling(self: Monitor, message: Any, position: Any) -> Any:
        outputs = apply(self, message, position)
        seen[0] += isinstance(message, ScoredBatch)
        if seen[0] == 5:
            seen[0] += 1
            self._next -= 1
            self._meta.applied -= 1
            outputs += apply(self, message, position)
        return outputs

    Monitor.apply = doubling  # type: ignore[method-assign]


def monitor_forgets() -> None:
    """A monitor that is taken over begins with no state."""
    restore = MonitorTask.restore

    async def forgetting(self: MonitorTask, reader: Any, entries: Any) -> None:
        await restore(self, reader, {})

    MonitorTask.restore = forgetting  # type: ignore[method-assign]


def outside_the_transaction() -> None:
    """Outputs are sent by a producer of their own, before the transaction."""
    commit = TransactionalProducer._commit

    async def splitting(self: Any, records: Sequence[Record]) -> Acknowledged:
        outputs = [record for record in records if "checkpoints-" not in record.topic]
        plain = aiokafka.AIOKafkaProducer(bootstrap_servers=os.environ["STREAMAPP_BROKER"], acks="all")
        await plain.start()
        first = await producing._send(plain, outputs)
        await plain.stop()
        await asyncio.sleep(LONG)
        answer = await commit(self, [record for record in records if "checkpoints-" in record.topic])
        return Acknowledged(first.timestamp, answer.received)

    TransactionalProducer._commit = splitting  # type: ignore[method-assign]


def positions_without_state() -> None:
    """After a while a joiner's checkpoint keeps its positions and loses its state."""
    records, seen = Checkpoint.records, [0]

    def losing(self: Checkpoint, entries: Any, marks: Any) -> list[Record]:
        found = records(self, entries, marks)
        if "joiner" not in self.topic:
            return found
        seen[0] += 1
        return [record for record in found if record.key == INPUT] if seen[0] > 20 else found

    Checkpoint.records = losing  # type: ignore[method-assign]


def read_uncommitted() -> None:
    """Everything is read, aborted or not; transactions stay open for long."""
    slow_commit()
    consumer = aiokafka.AIOKafkaConsumer.__init__

    def careless(self: Any, *topics: str, **options: Any) -> None:
        consumer(self, *topics, **{**options, "isolation_level": "read_uncommitted"})

    aiokafka.AIOKafkaConsumer.__init__ = careless
    Reader._at_end = lambda self, tp, position: 0 <= (self._consumer.highwater(tp) or 0) <= position  # type: ignore[method-assign]


def not_fenced() -> None:
    """Each process has transactional ids of its own, so a stale owner goes on."""
    make = producing.producer

    def own(config: Any, role: str, partition: int) -> Any:
        found = make(config, role, partition)
        name = f"{config.topic_prefix}{role}-{partition}-{os.getpid()}"
        return TransactionalProducer(config, name) if config.transactions else found

    defaults = runtime.Runtime.__init__.__kwdefaults__
    assert defaults is not None
    defaults["producer"] = own


MUTANTS: dict[str, Callable[[], None]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        slow_commit,
        skip_one_prediction,
        score_twice,
        monitor_twice,
        monitor_forgets,
        outside_the_transaction,
        positions_without_state,
        read_uncommitted,
        not_fenced,
    )
}

if __name__ == "__main__":
    # Patched in this module would be another copy of it for whoever imports it by name; nobody does in a worker.
    MUTANTS[sys.argv.pop(1)]()
    runpy.run_module("agents", run_name="__main__")
