"""What readers of the topics see: a mark for each prediction that has a verdict, and what is live in checkpoints."""

import threading
import time
from collections.abc import Callable
from typing import Any

import confluent_kafka
import numpy as np
from confluent_kafka import TopicPartition

from streamapp.core.events import ScoredBatch
from streamapp.stream.codec import decode_scored
from streamapp.stream.topics import Topics

ROLES = ("joiner", "monitor", "learner")
INPUTS = ("predictions", "outcomes", "scored")
"""What has a lag."""
COUNTED = ("signals", "retrain", "model-updates", "dead-letters")
PATIENCE = 10.0


class Marks:
    """How many verdicts each offset of a partition has."""

    def __init__(self) -> None:
        self._counts = np.zeros(1 << 16, np.uint8)
        self.verdicts = 0
        self.doubled = 0
        """Verdicts beyond the first of their prediction."""

    def add(self, offsets: Any) -> None:
        """Count the verdicts of one message."""
        if not len(offsets):
            return
        while int(offsets.max()) >= len(self._counts):
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        distinct, times = np.unique(offsets, return_counts=True)
        self.verdicts += len(offsets)
        self.doubled += int(len(offsets) - len(distinct) + np.count_nonzero(self._counts[distinct]))
        self._counts[distinct] = np.minimum(self._counts[distinct].astype(int) + times, 255)

    def missing(self, end: int) -> int:
        """Return how many offsets below *end* have none."""
        known = self._counts[:end]
        return end - int(np.count_nonzero(known))


class Ledger(threading.Thread):
    """Reads committed outputs and checkpoints as they come.

    Args:
        broker: Where to begin.
        topics: Of the deployment.
        partitions: Of the inputs.
        scored_partitions: Of ``scored``.
        group: Of the workers: how far they are is asked of it, as a lag tool does.
    """

    def __init__(self, broker: str, topics: Topics, *, partitions: int, scored_partitions: int, group: str) -> None:
        super().__init__(daemon=True)
        self._topics = topics
        self.marks = [Marks() for _ in range(partitions)]
        self.counted = dict.fromkeys(COUNTED, 0)
        self.live: dict[str, dict[tuple[int, bytes], int]] = {role: {} for role in ROLES}
        """Bytes of key and value of each entry that compaction leaves, by partition and key."""
        self.error: BaseException | None = None
        self._ending = threading.Event()
        self._lock = threading.Lock()
        settings = {"bootstrap.servers": broker, "enable.auto.commit": False, "group.id": group}
        self._reader = confluent_kafka.Consumer(
            {**settings, "group.id": f"{group}-ledger", "auto.offset.reset": "error", "fetch.wait.max.ms": 100}
        )
        self._asker = confluent_kafka.Consumer({**settings, "isolation.level": "read_uncommitted"})
        self._inputs = [
            TopicPartition(topics.full(name), number)
            for name in INPUTS
            for number in range(scored_partitions if name == "scored" else partitions)
        ]
        parts = [("scored", scored_partitions), *((name, 1) for name in COUNTED if name != "retrain")]
        parts += [("retrain", scored_partitions), ("checkpoints-joiner", partitions)]
        parts += [(f"checkpoints-{role}", scored_partitions) for role in ("monitor", "learner")]
        self._reader.assign([TopicPartition(topics.full(name), n, 0) for name, count in parts for n in range(count)])

    def run(self) -> None:
        try:
            while not self._ending.is_set():
                records = self._reader.consume(2000, 0.2)
                with self._lock:
                    for record in records:
                        if record.error() is not None:
                            raise RuntimeError(f"{record.topic()}[{record.partition()}]: {record.error()}")
                        self._take(self._topics.short(record.topic()), record)
        except BaseException as error:
            self.error = error

    def _take(self, topic: str, record: Any) -> None:
        if topic == "scored":
            message = decode_scored(record.value())
            if isinstance(message, ScoredBatch):
                self.marks[message.partition].add(message.offset)
        elif topic in self.counted:
            self.counted[topic] += 1
        else:
            live, key = self.live[topic.removeprefix("checkpoints-")], (record.partition(), record.key())
            if record.value() is None:
                live.pop(key, None)
            else:
                live[key] = len(record.key()) + len(record.value())

    def state(self) -> dict[str, Any]:
        """Return what was read so far, and how far the workers' group is behind, in records."""
        ends = {(tp.topic, tp.partition): self._end(tp) for tp in self._inputs}
        positions = _asked(lambda: self._asker.committed(self._inputs, timeout=PATIENCE))
        known = {(tp.topic, tp.partition): tp.offset for tp in positions}
        lag = dict.fromkeys(INPUTS, 0)
        for (topic, number), end in ends.items():
            lag[self._topics.short(topic)] += max(0, end - max(known[topic, number], 0))
        with self._lock:
            return {
                "predictions": sum(end for (topic, _), end in ends.items() if topic == self._topics.predictions),
                "scored": sum(end for (topic, _), end in ends.items() if topic == self._topics.scored),
                "verdicts": sum(marks.verdicts for marks in self.marks),
                "lag": lag,
                "live": {role: [len(live), sum(live.values())] for role, live in self.live.items()},
                "counted": dict(self.counted),
            }

    def balance(self) -> dict[str, int]:
        """Return how many predictions there are, and how many verdicts are doubled or missing."""
        ends = [self._end(TopicPartition(self._topics.predictions, number)) for number in range(len(self.marks))]
        with self._lock:
            return {
                "predictions": sum(ends),
                "verdicts": sum(marks.verdicts for marks in self.marks),
                "doubled": sum(marks.doubled for marks in self.marks),
                "missing": sum(marks.missing(end) for marks, end in zip(self.marks, ends, strict=True)),
            }

    def _end(self, tp: TopicPartition) -> int:
        _, end = _asked(lambda: self._asker.get_watermark_offsets(tp, timeout=PATIENCE))
        return int(end)

    def close(self) -> None:
        """End reading."""
        self._ending.set()
        self.join(PATIENCE)
        self._reader.close()
        self._asker.close()


def _asked(question: Callable[[], Any]) -> Any:
    """Return an answer of the broker; one that is busy may say for a moment that it leads nothing."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return question()
        except confluent_kafka.KafkaException:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
