"""What is committed in the topics of a run."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaConnectionError

from streamapp.stream.topics import Topics

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds within which the others answer where a broker was killed."""
Key = tuple[str, int]
"""Topic, without prefix, and partition."""


class Log:
    """Committed records of some topics, read on as they come.

    Args:
        broker: Where to begin.
        topics: Of the deployment.
        names: Of the topics, without prefix.
        from_now: Leave out what is there already.
    """

    def __init__(self, broker: str, topics: Topics, *names: str, from_now: bool = False) -> None:
        self._topics = topics
        self._consumer = KafkaConsumer(
            bootstrap_servers=broker,
            isolation_level="read_committed",
            enable_auto_commit=False,
            fetch_max_wait_ms=50,
            max_partition_fetch_bytes=4 << 20,
        )
        self._parts = [
            TopicPartition(topics.full(name), number)
            for name in names
            for number in sorted(_told(partial(self._consumer.partitions_for_topic, topics.full(name))) or ())
        ]
        self._consumer.assign(self._parts)
        if from_now:
            for tp, end in _told(partial(self._consumer.end_offsets, self._parts)).items():
                self._consumer.seek(tp, end)
        else:
            self._consumer.seek_to_beginning(*self._parts)
        self.records: dict[Key, list[Any]] = defaultdict(list)

    def more(self, timeout: float = 0.2) -> dict[Key, list[Any]]:
        """Return what came since the last time."""
        got = {
            self._key(tp): batch
            for tp, batch in self._consumer.poll(timeout_ms=int(timeout * 1000), max_records=100_000).items()
        }
        for key, batch in got.items():
            self.records[key].extend(batch)
        return got

    def whole(self) -> "Log":
        """Read all that is committed now."""
        ends = self._consumer.end_offsets(self._parts)
        while any(self._consumer.position(tp) < ends[tp] for tp in self._parts):
            self.more()
        return self

    def of(self, topic: str) -> list[Any]:
        """Return the records of all partitions of a topic."""
        return [r for (name, _), records in sorted(self.records.items()) if name == topic for r in records]

    def close(self) -> None:
        self._consumer.close()

    def _key(self, tp: TopicPartition) -> Key:
        return tp.topic.removeprefix(self._topics.prefix), tp.partition


def newest(records: Sequence[Any]) -> dict[bytes, bytes]:
    """Return the newest value of each key that has one."""
    entries = {record.key: record.value for record in records}
    return {key: value for key, value in entries.items() if value is not None}


def committed(broker: str, topics: Topics, names: Iterable[str]) -> Log:
    """Return all that is committed now in some topics, without their prefix."""
    log = Log(broker, topics, *names).whole()
    log.close()
    return log


def _told(ask: Callable[[], T]) -> T:
    """Return what brokers answer, from the next one where one was asked that had just been killed."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return ask()
        except KafkaConnectionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
