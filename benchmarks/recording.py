"""The recorded input that contestants read: predictions and outcomes, delayed and out of order, and the truth of it."""

import asyncio
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiokafka
import msgspec
import numpy as np

from streamapp.core.hashing import murmur2
from streamapp.stream.topics import Topics

BATCH = 1000
"""Events of one topic that are written before those of the other."""
SPREAD = 2000
"""Most predictions that are made before an outcome comes."""
SPAN = 10 * 86_400.0
"""Seconds of event time, whatever the number of pairs: detectors that want a day's reference have it by the warm-up."""
DELAY = 60.0
"""Mean seconds of event time between prediction and outcome."""
LONGEST = 20
"""So many times the mean is the longest."""
HELD_MS = 600_000
"""Longest time that writing what was held back may take."""
NAMES = ("amount", "age", "hour", "speed", "distance", "count")

Events = list[tuple[bytes, bytes]]
"""Keys and messages."""
Key = tuple[str, str]
"""Model and group."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What to record."""

    pairs: int = 1_000_000
    models: int = 1
    groups: int = 2
    features: int = 6
    message_size: int = 0
    """Bytes of a prediction: a text among the features fills up what is missing."""
    pending: int = 0
    """Predictions before all others whose outcomes never come."""
    partitions: int = 4
    seed: int = 1


@dataclass(frozen=True)
class Score:
    """How one group stands when all is read."""

    pairs: int
    accuracy: float
    brier: float
    auc: float
    persistence: float
    """Share of the outcomes that the one before did not tell."""


@dataclass(frozen=True)
class Recording:
    """What was recorded."""

    topics: Topics
    shape: Shape
    bytes: int
    """Of the messages written, without those held back."""
    truth: dict[Key, Score]


@dataclass(frozen=True)
class _Columns:
    """The pairs of a shape, before they are written."""

    model: Any
    group: Any
    score: Any
    truth: Any
    delay: Any


def model_name(number: int) -> str:
    """Return a model's name."""
    return f"fraud-{number}" if number else "fraud"


def group_name(number: int) -> str:
    """Return a group's name."""
    return ("champion", "challenger")[number] if number < 2 else f"challenger-{number}"


def truth(shape: Shape) -> dict[Key, Score]:
    """Return how every group stands when all pairs of a shape are scored.

    Persistence depends on their order; outcomes are independent, so it is right as often as chance has it.
    """
    columns = _columns(shape)
    code = columns.model * shape.groups + columns.group
    width = shape.models * shape.groups
    rows = np.bincount(code, minlength=width).tolist()
    hits = np.bincount(code, (columns.score >= 0.5) == columns.truth, width).tolist()
    brier = np.bincount(code, np.square(columns.score - columns.truth), width).tolist()
    order = np.argsort(code, kind="stable")
    ends = np.cumsum([0, *rows])
    share = float(columns.truth.mean())
    found = {}
    for place, (n, right, loss) in enumerate(zip(rows, hits, brier, strict=True)):
        if n:
            model, group = divmod(place, shape.groups)
            own = order[ends[place] : ends[place + 1]]
            area = _auc(columns.score[own], columns.truth[own])
            found[model_name(model), group_name(group)] = Score(n, right / n, loss / n, area, 2 * share * (1 - share))
    return found


def _auc(score: Any, truth: Any) -> float:
    """Return the area under the ROC curve, ties counted half; 0.5 where it is undefined."""
    _, place = np.unique(score, return_inverse=True)
    positive, negative = np.bincount(place, truth), np.bincount(place, ~truth)
    both = positive.sum() * negative.sum()
    below = np.cumsum(negative) - negative / 2
    return float(positive @ below / both) if both else 0.5


def events(shape: Shape, now: float) -> Iterator[tuple[str, Events]]:
    """Yield pieces of ``predictions`` and ``outcomes`` in the order in which services would have sent them.

    Args:
        shape: What to make.
        now: No event is of a later time than this, seconds since the epoch: who looks at it takes it for wrong.
    """
    columns = _columns(shape)
    make = _Maker(shape, now)
    for start in range(0, shape.pending, BATCH):
        yield "predictions", make.waiting(start, min(start + BATCH, shape.pending))
    place = np.random.default_rng(shape.seed + 1).integers(1, SPREAD, shape.pairs) + np.arange(shape.pairs)
    order = np.argsort(place, kind="stable")
    due = place[order]
    done = 0
    for start in range(0, shape.pairs, BATCH):
        end = min(start + BATCH, shape.pairs)
        yield "predictions", make.predictions(start, end, columns)
        upto = shape.pairs if end == shape.pairs else int(np.searchsorted(due, end))
        for first in range(done, upto, BATCH):
            yield "outcomes", make.outcomes(order[first : min(first + BATCH, upto)], columns)
        done = upto


def _columns(shape: Shape) -> _Columns:
    draw = np.random.default_rng(shape.seed)
    score = np.round(draw.random(shape.pairs), 4)
    return _Columns(
        model=draw.integers(0, shape.models, shape.pairs),
        group=draw.integers(0, shape.groups, shape.pairs),
        score=score,
        truth=draw.random(shape.pairs) < score,
        delay=np.round(np.minimum(draw.exponential(DELAY, shape.pairs), LONGEST * DELAY), 3),
    )


class _Maker:
    """Writes events as JSON."""

    def __init__(self, shape: Shape, now: float) -> None:
        self._shape = shape
        self._step = SPAN / max(shape.pairs, 1)
        self._start = now - shape.pairs * self._step - LONGEST * DELAY
        self._draw = np.random.default_rng(shape.seed + 2)
        self._names = [NAMES[i] if i < len(NAMES) else f"feature_{i}" for i in range(shape.features)]
        self._encode = msgspec.json.Encoder().encode
        self._models = [model_name(number) for number in range(shape.models)]
        self._groups = [group_name(number) for number in range(shape.groups)]
        self._text = 0
        if shape.message_size:
            bare = len(self._prediction(0, self._models[0], self._groups[0], 0.1234, [-0.1234] * shape.features))
            self._text = max(0, shape.message_size - bare - len(',"text":""'))

    def waiting(self, start: int, end: int) -> Events:
        """Return predictions whose outcomes never come."""
        features = self._features(end - start)
        models, groups = len(self._models), len(self._groups)
        return [
            (
                (key := f"pending-{i:012d}").encode(),
                self._prediction(0, self._models[i % models], self._groups[i % groups], 0.5, features[i - start], key),
            )
            for i in range(start, end)
        ]

    def predictions(self, start: int, end: int, columns: _Columns) -> Events:
        """Return predictions by their number."""
        features = self._features(end - start)
        scores = columns.score[start:end].tolist()
        models, groups = columns.model[start:end].tolist(), columns.group[start:end].tolist()
        return [
            (
                (key := _key(start + i)).encode(),
                self._prediction(start + i, self._models[model], self._groups[group], score, features[i], key),
            )
            for i, (model, group, score) in enumerate(zip(models, groups, scores, strict=True))
        ]

    def outcomes(self, numbers: Any, columns: _Columns) -> Events:
        """Return the outcomes of these predictions."""
        times = np.round(self._start + numbers * self._step + columns.delay[numbers], 3).tolist()
        made = []
        for number, ts, outcome in zip(numbers.tolist(), times, columns.truth[numbers].tolist(), strict=True):
            key = _key(number)
            made.append((key.encode(), self._encode({"prediction_id": key, "ts": ts, "outcome": outcome})))
        return made

    def _features(self, count: int) -> list[list[float]]:
        return np.round(self._draw.normal(size=(count, self._shape.features)), 4).tolist()  # type: ignore[no-any-return]

    def _prediction(
        self, number: int, model: str, group: str, score: float, features: Sequence[float], key: str = ""
    ) -> bytes:
        values: dict[str, Any] = dict(zip(self._names, features, strict=True))
        if self._text:
            values["text"] = "x" * self._text
        return self._encode(
            {
                "prediction_id": key or _key(number),
                "model": model,
                "group": group,
                "ts": round(self._start + number * self._step, 3),
                "prediction": score >= 0.5,
                "scores": score,
                "version": "v1",
                "latency": round(0.001 + (number & 1023) / 50_000, 5),
                "features": values,
            }
        )


def _key(number: int) -> str:
    """Return an id that looks random and is not."""
    return f"{number * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF:016x}-{number:012d}"


class Recorder:
    """Writes a shape to its topics, keyed and partitioned as producers do.

    Args:
        broker: ``host:port``.
        topics: Where to.
        shape: What.
        held: Keep all pairs back until :meth:`release`, which shows them at one moment; predictions that wait for ever
            are there before.
    """

    def __init__(self, broker: str, topics: Topics, shape: Shape, *, held: bool = False) -> None:
        self._broker = broker
        self.topics = topics
        self._shape = shape
        self._held = held
        self._runner = asyncio.Runner()
        self._producer: aiokafka.AIOKafkaProducer
        self._events = events(shape, time.time())

    def write(self) -> Recording:
        """Write all there is, but for what is held back."""
        return self._runner.run(self._write())

    def release(self) -> None:
        """Write what was held back in one transaction, so that who reads committed sees all of it or nothing."""
        if self._held:
            self._runner.run(self._release())

    def close(self) -> None:
        """Let go of the broker."""
        self._runner.run(self._producer.stop())
        self._runner.close()

    async def _write(self) -> Recording:
        transaction = {"transactional_id": uuid.uuid4().hex, "transaction_timeout_ms": HELD_MS} if self._held else {}
        self._producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=self._broker, max_batch_size=1 << 20, linger_ms=5, **transaction
        )
        await self._producer.start()
        if not self._held:
            size = sum([await self._send(topic, rows) for topic, rows in self._events])
        else:
            size, shown = 0, 0
            while shown < self._shape.pending:
                async with self._producer.transaction():
                    topic, rows = next(self._events)
                    size += await self._send(topic, rows)
                    shown += len(rows)
        return Recording(self.topics, self._shape, size, truth(self._shape))

    async def _release(self) -> None:
        async with self._producer.transaction():
            for topic, rows in self._events:
                await self._send(topic, rows)

    async def _send(self, topic: str, rows: Events) -> int:
        """Send rows, and return the bytes of their messages."""
        await send(self._producer, self.topics.full(topic), rows, self._shape.partitions)
        return sum(len(message) for _, message in rows)


async def send(producer: aiokafka.AIOKafkaProducer, topic: str, rows: Events, partitions: int) -> None:
    """Send rows to a topic, each to the partition of its key, and return when they are there."""
    places = ((murmur2([key for key, _ in rows]) & 0x7FFFFFFF) % partitions).tolist()
    batches = [producer.create_batch() for _ in range(partitions)]
    sent = []
    for place, (key, message) in zip(places, rows, strict=True):
        if batches[place].append(key=key, value=message, timestamp=None) is None:
            sent.append(await producer.send_batch(batches[place], topic, partition=place))
            batches[place] = producer.create_batch()
            assert batches[place].append(key=key, value=message, timestamp=None) is not None
    for place, batch in enumerate(batches):
        if batch.record_count():
            sent.append(await producer.send_batch(batch, topic, partition=place))
    await asyncio.gather(*sent)
