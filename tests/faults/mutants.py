"""Workers with one deliberate defect each: the checks must notice every one of them."""

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import aiokafka

from streamapp.core.events import ScoredBatch
from streamapp.core.join import InputBatch, Joiner
from streamapp.core.monitor import Monitor
from streamapp.core.monitoring.watch import Watch
from streamapp.stream import producer as producing
from streamapp.stream import runtime
from streamapp.stream.apart import producer_apart
from streamapp.stream.checkpoint import INPUT, Checkpoint
from streamapp.stream.codec import decode_scored
from streamapp.stream.joining import JoinerTask
from streamapp.stream.monitoring import MonitorTask
from streamapp.stream.producer import Acknowledged, Record, TransactionalProducer
from streamapp.stream.reader import Reader

LONG = 0.3
"""Seconds that a transaction is kept open where a defect needs somebody to die in it."""
SKIPPED = b"-0000500"
"""How the id of the prediction ends that is skipped, wherever it appears."""


def slow_commit() -> None:
    """No defect: transactions only stay open for longer, as on a slow broker. This must pass."""
    send = producing._send

    async def slow(kafka: Any, records: Sequence[Record]) -> Acknowledged:
        answer = await send(kafka, records)
        await asyncio.sleep(LONG)
        return answer

    producing._send = slow


def skip_one_prediction() -> None:
    """The records of one id are not handed to the joiner."""
    predictions = Joiner.predictions

    def skipping(self: Joiner, batch: InputBatch) -> None:
        kept = [place for place, key in enumerate(batch.keys) if key is None or not key.endswith(SKIPPED)]
        predictions(self, batch if len(kept) == len(batch.keys) else _of(batch, kept))

    Joiner.predictions = skipping  # type: ignore[method-assign]


def score_twice() -> None:
    """One message with rows goes out twice."""
    outcome, seen = JoinerTask.outcome, [0]

    def doubling(self: JoinerTask) -> Any:
        records, state = outcome(self)
        records, again = list(records), []
        for record in records:
            if record.topic == self.around.topics.scored and isinstance(
                decode_scored(record.value or b""), ScoredBatch
            ):
                seen[0] += 1
                again += [record] if seen[0] == 5 else []
        return records + again, state

    JoinerTask.outcome = doubling  # type: ignore[method-assign]


def loses_a_dead_letter() -> None:
    """One record that was refused is not kept."""
    outcome, seen = JoinerTask.outcome, [0]

    def losing(self: JoinerTask) -> Any:
        records, state = outcome(self)
        kept = []
        for record in records:
            bad = record.topic == self.around.topics.dead_letters
            seen[0] += bad
            kept += [] if bad and seen[0] == 5 else [record]
        return kept, state

    JoinerTask.outcome = losing  # type: ignore[method-assign]


def expire_by_newest_ts() -> None:
    """Log time is the newest ``ts`` that was seen, whoever said it."""
    newest: dict[int, float] = defaultdict(float)

    def wrong(take: Any) -> Any:
        def taking(self: Joiner, batch: InputBatch) -> None:
            times = []
            for value in batch.values:
                newest[id(self)] = max(newest[id(self)], _ts(value))
                times.append(newest[id(self)])
            take(self, replace(batch, timestamps=times))

        return taking

    Joiner.predictions = wrong(Joiner.predictions)  # type: ignore[method-assign]
    Joiner.outcomes = wrong(Joiner.outcomes)  # type: ignore[method-assign]


def monitor_twice() -> None:
    """A monitor applies one message with rows twice."""
    hold, seen = Monitor.hold, [0]

    def doubling(self: Monitor, message: Any, position: Any) -> None:
        hold(self, message, position)
        seen[0] += isinstance(message, ScoredBatch)
        if seen[0] == 5:
            seen[0] += 1
            self._next -= 1
            self._meta.applied -= 1
            hold(self, message, position)

    Monitor.hold = doubling  # type: ignore[method-assign]


def monitor_forgets() -> None:
    """A monitor that is taken over begins with no state."""
    restore = MonitorTask.restore

    async def forgetting(self: MonitorTask, reader: Any, entries: Any) -> None:
        await restore(self, reader, {})

    MonitorTask.restore = forgetting  # type: ignore[method-assign]


def detectors_forget() -> None:
    """A monitor that is taken over has lost since when its detectors saw what, which nothing shows before an alarm."""
    load = Watch.load

    def forgetting(self: Watch, data: bytes) -> None:
        load(self, data)
        self._marks.clear()

    Watch.load = forgetting  # type: ignore[method-assign]


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
    """A joiner's checkpoint keeps its positions, and after the first time it loses its state."""
    records, seen = Checkpoint.records, set[int]()

    def losing(self: Checkpoint, *arguments: Any) -> list[Record]:
        found = records(self, *arguments)
        if "joiner" not in self.topic:
            return found
        first = self.partition not in seen
        seen.add(self.partition)
        return found if first else [record for record in found if record.key == INPUT]

    Checkpoint.records = losing  # type: ignore[assignment,method-assign]


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
    defaults["producer"] = partial(producer_apart, make=own)


MUTANTS: dict[str, Callable[[], None]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        slow_commit,
        skip_one_prediction,
        score_twice,
        loses_a_dead_letter,
        expire_by_newest_ts,
        monitor_twice,
        monitor_forgets,
        detectors_forget,
        outside_the_transaction,
        positions_without_state,
        read_uncommitted,
        not_fenced,
    )
}


def _of(batch: InputBatch, places: list[int]) -> InputBatch:
    """Return the records at some places."""
    return replace(
        batch, **{each.name: [getattr(batch, each.name)[place] for place in places] for each in fields(batch)}
    )


def _ts(value: bytes | None) -> float:
    try:
        return float(json.loads(value or b"")["ts"])
    except (ValueError, KeyError, TypeError):
        return 0.0
