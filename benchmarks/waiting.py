"""Input of which a known part waits for ever: written as it is made, so that its size does not matter to memory.

Every prediction is like those of :mod:`benchmarks.recording`; so many predictions after it comes its outcome, unless it
is one of those that wait.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

import aiokafka
import msgspec
import numpy as np

from benchmarks.recording import NAMES, Events, send
from streamapp.stream.topics import Topics

PIECE = 4000
"""Events that are made and sent together."""
SPAN = 30.0
"""Seconds of event time, whatever the number: less than any window, so that every outcome belongs."""
POOL = 1024
"""Different sets of features."""

_PREDICTION = (
    b'{"prediction_id":"%b","model":"fraud","group":"%b","ts":%.3f,"prediction":%b,"scores":%.4f,"version":"v1",'
    b'"latency":%.5f,"features":%b}'
)
_OUTCOME = b'{"prediction_id":"%b","ts":%.3f,"outcome":%b}'
_WORDS = (b"false", b"true")


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """What to write."""

    predictions: int
    every: int = 1
    """One in so many waits for ever; 0: none does."""
    lag: int = 10_000
    """Predictions between one and its outcome."""
    partitions: int = 4

    @property
    def pending(self) -> int:
        """How many wait for ever."""
        return -(-self.predictions // self.every) if self.every else 0

    @property
    def pairs(self) -> int:
        """How many have an outcome."""
        return self.predictions - self.pending

    def waits(self, number: int) -> bool:
        """Return whether a prediction waits for ever."""
        return self.every > 0 and number % self.every == 0


def pieces(what: Waiting, now: float) -> Iterator[tuple[str, Events]]:
    """Yield pieces of ``predictions`` and ``outcomes`` in the order in which services would have sent them.

    Args:
        what: To be made.
        now: Seconds since the epoch; the last outcome lies before it.
    """
    step = SPAN / max(what.predictions, 1)
    first = now - 2 * SPAN
    draws = np.round(np.random.default_rng(1).normal(size=(POOL, len(NAMES))), 4).tolist()
    features = [msgspec.json.encode(dict(zip(NAMES, draw, strict=True))) for draw in draws]
    told, delay = 0, min(what.lag, what.predictions) * step
    for start in range(0, what.predictions, PIECE):
        end = min(start + PIECE, what.predictions)
        yield "predictions", [_prediction(i, first + i * step, features[i * 7919 % POOL]) for i in range(start, end)]
        due = what.predictions if end == what.predictions else max(0, end - what.lag)
        for begin in range(told, due, PIECE):
            numbers = range(begin, min(begin + PIECE, due))
            outcomes = [_outcome(i, first + i * step + delay) for i in numbers if not what.waits(i)]
            if outcomes:
                yield "outcomes", outcomes
        told = due


def _prediction(number: int, ts: float, features: bytes) -> tuple[bytes, bytes]:
    key, score = _key(number), number * 7 % 10_000 / 10_000
    group = b"champion" if number & 1 else b"challenger"
    latency = 0.001 + (number & 1023) / 50_000
    return key, _PREDICTION % (key, group, ts, _WORDS[score >= 0.5], score, latency, features)


def _outcome(number: int, ts: float) -> tuple[bytes, bytes]:
    key = _key(number)
    return key, _OUTCOME % (key, ts, _WORDS[number * 13 % 10_000 < number * 7 % 10_000])


def _key(number: int) -> bytes:
    return b"%016x-%012d" % (number * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF, number)


def write(broker: str, topics: Topics, what: Waiting) -> int:
    """Write it; return the bytes of the predictions' messages, without their keys."""
    return asyncio.run(_write(broker, topics, what))


async def _write(broker: str, topics: Topics, what: Waiting) -> int:
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=broker, max_batch_size=1 << 20, linger_ms=5)
    await producer.start()
    size = 0
    try:
        for topic, rows in pieces(what, time.time()):
            if topic == "predictions":
                size += sum(len(message) for _, message in rows)
            await send(producer, topics.full(topic), rows, what.partitions)
    finally:
        await producer.stop()
    return size
