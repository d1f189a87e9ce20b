"""The recorded input that every contestant reads: predictions and outcomes, delayed and out of order."""

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import aiokafka
import msgspec

from streamapp.core.hashing import murmur2
from streamapp.stream.topics import Topics

BATCH = 1000
"""Events of one topic that are sent before those of the other."""
SPREAD = 2000
"""Predictions that may be made before an outcome comes."""


@dataclass(frozen=True)
class Recording:
    """What was recorded."""

    pairs: int
    bytes: int


def events(pairs: int, seed: int = 1) -> Iterator[tuple[str, str, bytes]]:
    """Yield (topic, prediction_id, message) as services would have sent them, *pairs* of each."""
    draw = random.Random(seed)
    encode = msgspec.json.encode
    start = time.time() - pairs / 1000
    waiting: list[tuple[str, bytes]] = []
    for i in range(pairs):
        key = f"{draw.getrandbits(64):016x}-{i:012d}"
        ts = round(start + i / 1000, 3)
        score = round(draw.random(), 4)
        features = {
            name: round(draw.gauss(0, 1), 4) for name in ("amount", "age", "hour", "speed", "distance", "count")
        }
        prediction = {
            "prediction_id": key,
            "model": "fraud",
            "group": "champion" if draw.random() < 0.5 else "challenger",
            "ts": ts,
            "prediction": score >= 0.5,
            "scores": score,
            "version": "v1",
            "latency": round(0.001 + draw.random() / 50, 5),
            "features": features,
        }
        yield "predictions", key, encode(prediction)
        outcome = {"prediction_id": key, "ts": round(ts + draw.random(), 3), "outcome": draw.random() < score}
        waiting.append((key, encode(outcome)))
        if len(waiting) >= SPREAD:
            draw.shuffle(waiting)
            for key, message in waiting[: SPREAD // 2]:
                yield "outcomes", key, message
            del waiting[: SPREAD // 2]
    draw.shuffle(waiting)
    for key, message in waiting:
        yield "outcomes", key, message


def record(broker: str, topics: Topics, pairs: int, partitions: int) -> Recording:
    """Write the input to its topics, keyed and partitioned as producers do, and return its size."""
    return asyncio.run(_record(broker, topics, pairs, partitions))


async def _record(broker: str, topics: Topics, pairs: int, partitions: int) -> Recording:
    size = 0
    async with aiokafka.AIOKafkaProducer(bootstrap_servers=broker, max_batch_size=1 << 20, linger_ms=5) as producer:
        held: dict[str, list[tuple[bytes, bytes]]] = {"predictions": [], "outcomes": []}
        for topic, key, message in events(pairs):
            size += len(message)
            held[topic].append((key.encode(), message))
            if len(held[topic]) >= BATCH:
                await _send(producer, topics.full(topic), held[topic], partitions)
                held[topic] = []
        for topic, rest in held.items():
            await _send(producer, topics.full(topic), rest, partitions)
    return Recording(pairs, size)


async def _send(
    producer: aiokafka.AIOKafkaProducer, topic: str, rows: list[tuple[bytes, bytes]], partitions: int
) -> None:
    if not rows:
        return
    places = (murmur2([key for key, _ in rows]) & 0x7FFFFFFF) % partitions
    sent = []
    for partition in range(partitions):
        batch = producer.create_batch()
        for place, (key, message) in zip(places, rows, strict=True):
            if place == partition:
                assert batch.append(key=key, value=message, timestamp=None) is not None
        if batch.record_count():
            sent.append(await producer.send_batch(batch, topic, partition=partition))
    await asyncio.gather(*sent)
