"""The limit for Python: one loop that fetches, decodes, joins and scores. Nothing of it is durable.

Run by the throughput benchmark as a process of its own: ``python -m benchmarks.bare BROKER PREFIX PARTITIONS``.
"""

import asyncio
import gc
import sys
from typing import Any

import aiokafka
import msgspec
import numpy as np
from aiokafka import TopicPartition
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server
from river.drift import ADWIN

from streamapp.core.events import Outcome, Prediction
from streamapp.stream.topics import Topics

BINS = 64


class Group:
    """Sums of one group."""

    def __init__(self) -> None:
        self.rows = self.correct = 0
        self.brier = self.baseline = 0.0
        self.bins = np.zeros((2, BINS))
        self.adwin = ADWIN()
        self.drifts = 0

    def add(self, score: np.ndarray, truth: np.ndarray, last: bool) -> None:
        """Add rows, in order of arrival; *last* is the outcome known before the first of them."""
        loss = (score - truth) ** 2
        self.rows += len(score)
        self.correct += int(np.count_nonzero((score >= 0.5) == truth))
        self.brier += float(loss.sum())
        known = np.concatenate(([last], truth[:-1]))
        self.baseline += float(np.count_nonzero(known != truth))
        places = np.minimum((score * BINS).astype(np.int64), BINS - 1)
        for value in (0, 1):
            self.bins[value] += np.bincount(places[truth == value], minlength=BINS)
        update = self.adwin.update
        for value in loss.tolist():
            update(value)
            if self.adwin.drift_detected:
                self.drifts += 1


async def main(broker: str, prefix: str, partitions: int) -> None:
    """Read everything there is, for ever."""
    topics = Topics(prefix)
    registry = CollectorRegistry()
    joined = Counter("bare_pairs", "Pairs joined.", registry=registry)
    brier = Gauge("bare_brier", "Mean Brier loss.", ["group"], registry=registry)
    server, _ = start_http_server(0, "127.0.0.1", registry=registry)
    print(f"metrics at http://127.0.0.1:{server.server_port}/metrics", flush=True)
    predictions = msgspec.json.Decoder(Prediction).decode
    outcomes = msgspec.json.Decoder(Outcome).decode
    pending: dict[str, Any] = {}
    early: dict[str, Any] = {}
    groups: dict[str, Group] = {}
    last = False
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=broker, max_partition_fetch_bytes=1 << 20)
    await consumer.start()
    parts = [TopicPartition(t, p) for t in (topics.predictions, topics.outcomes) for p in range(partitions)]
    consumer.assign(parts)
    await consumer.seek_to_beginning(*parts)
    gc.freeze()
    while True:
        fetched = await consumer.getmany(timeout_ms=200, max_records=20_000)
        rows: dict[str, list[tuple[float, bool]]] = {}
        count = 0
        for tp, records in fetched.items():
            if tp.topic == topics.predictions:
                for record in records:
                    prediction = predictions(record.value)
                    outcome = early.pop(prediction.prediction_id, None)
                    if outcome is None:
                        pending[prediction.prediction_id] = prediction
                    else:
                        rows.setdefault(prediction.group, []).append((prediction.scores, outcome.outcome))
            else:
                for record in records:
                    outcome = outcomes(record.value)
                    prediction = pending.pop(outcome.prediction_id, None)
                    if prediction is None:
                        early[outcome.prediction_id] = outcome
                    else:
                        rows.setdefault(prediction.group, []).append((prediction.scores, outcome.outcome))
        for name, pairs in rows.items():
            group = groups.setdefault(name, Group())
            columns = np.array(pairs, dtype=np.float64)
            truth = columns[:, 1] == 1
            group.add(columns[:, 0], truth, last)
            last = bool(truth[-1])
            count += len(pairs)
            brier.labels(name).set(group.brier / group.rows)
        joined.inc(count)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
