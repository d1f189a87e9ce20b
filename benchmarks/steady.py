"""A steady load: so many predictions and as many outcomes a second, and when each outcome was sent.

``python -m benchmarks.steady BROKER PREFIX PARTITIONS MODELS RATE SECONDS FILE``, run by other benchmarks as a process
of its own. Every 10 ms it hands the next events to librdkafka, which sends them at once. An outcome comes a second
after its prediction. The group of a prediction is named after its partition, so that what a worker has joined of one
partition, in which order is kept, can be told from its counters.
"""

import sys
import time
from typing import Any

import confluent_kafka
import msgspec
import numpy as np

from benchmarks.recording import model_name
from streamapp.core.hashing import murmur2
from streamapp.stream.topics import Topics

TICK = 0.01
DELAY = 1.0
"""Seconds between a prediction and its outcome."""
NAMES = ("amount", "age", "hour", "speed", "distance", "count")


def main(broker: str, prefix: str, partitions: int, models: int, rate: float, seconds: float, path: str) -> None:
    """Send, and write when: for each partition an array of monotonic times, one for each outcome; and the delays."""
    topics = Topics(prefix)
    failed: list[object] = []
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": broker,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 0,
            "error_cb": failed.append,
        }
    )
    encode = msgspec.json.Encoder().encode
    draw = np.random.default_rng(1)
    count = int(rate * seconds)
    keys = [f"{high:016x}-{number:012d}" for number, high in enumerate(draw.integers(0, 2**63, count).tolist())]
    places = ((murmur2([key.encode() for key in keys]) & 0x7FFFFFFF) % partitions).tolist()
    scores = np.round(draw.random(count), 4).tolist()
    features = np.round(draw.normal(size=(1000, len(NAMES))), 4).tolist()
    truths = (draw.random(count) < scores).tolist()
    sent: list[list[float]] = [[] for _ in range(partitions)]
    late: list[float] = []

    def told(error: object, _: object) -> None:
        if error is not None:
            failed.append(error)

    made = known = 0
    began = time.monotonic()
    offset = time.time() - began
    while known < count:
        now = time.monotonic()
        for number in range(made, made := min(count, int((now - began) * rate))):
            prediction = {
                "prediction_id": keys[number],
                "model": model_name(number % models),
                "group": f"p{places[number]}",
                "ts": now + offset,
                "prediction": scores[number] >= 0.5,
                "scores": scores[number],
                "version": "v1",
                "latency": 0.012,
                "features": dict(zip(NAMES, features[number % 1000], strict=True)),
            }
            producer.produce(
                topics.predictions, encode(prediction), keys[number], partition=places[number], on_delivery=told
            )
        now = time.monotonic()
        due = min(made, int((now - began - DELAY) * rate))
        for number in range(known, due):
            outcome = {"prediction_id": keys[number], "ts": now + offset, "outcome": truths[number]}
            producer.produce(topics.outcomes, encode(outcome), keys[number], partition=places[number], on_delivery=told)
            sent[places[number]].append(now)
        if due > known:
            late.append(now - (began + DELAY + known / rate))
            known = due
        producer.poll(0)
        time.sleep(TICK)
    if producer.flush(30) or failed:
        sys.exit(f"not everything was sent: {failed[:3]}")
    arrays: dict[str, Any] = {f"p{place}": np.array(times) for place, times in enumerate(sent)}
    np.savez(path, late=np.array(late), **arrays)


if __name__ == "__main__":
    _, broker, prefix, partitions, models, rate, seconds, path = sys.argv
    main(broker, prefix, int(partitions), int(models), float(rate), float(seconds), path)
